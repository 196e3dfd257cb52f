"""Measure registrations of synthetic scans against the truth that their generator stored.

    python -m benchmarks.known_truth --scans DIR --model MODEL --results RESULTS --template FOLDER

DIR holds SUBJECT/EXPRESSION/truth.npz with `vertices` (metres, in the order of the head model MODEL). Where the
template was made of the same model, or of some of its vertices, the error is the distance of each registered vertex to
its true place. Every template is measured for consistency: a vertex registered to the neutral marks a place of the
skin; the distance between where that place truly is in another expression and where the vertex was registered to there.
Face region only. Synthetic scans: the heads are drawn from a linear model, which flatters a fit with that model.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.io.files import read_npz
from nphm_core.io.meshes import read_mesh
from nphm_core.template.model import HeadModel
from nphm_core.template.read import read_head_model
from nphm_core.template.template import Template, read_template

_MM_PER_METRE = 1000.0
_SAME_VERTEX_M = 1e-6


def main() -> None:
    """Print one line a scan and the medians over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--model", required=True, help="head model whose vertices the truth has")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--neutral", default="neutral", help="expression that the consistency is measured from")
    options = parser.parse_args()
    template, model = read_template(options.template), read_head_model(options.model)
    for stage in ("flame_fit", "arap"):
        found = _registered(options.results, options.scans, template, stage)
        print(f"== {stage}: {len(found)} scans registered")
        rows = shared_vertices(template, model)
        if rows is not None:
            _print_errors(found, rows, template)
        _print_consistency(found, model, template, options.neutral)


def _registered(results: Path, scans: Path, template: Template, stage: str) -> dict[str, tuple[ndarray, ndarray]]:
    """Give registered template vertices and true model vertices by scan, mm."""
    found = {}
    for truth in sorted(scans.glob("*/*/truth.npz")):
        scan_id = f"{truth.parent.parent.name}/{truth.parent.name}"
        folder = results / "scans" / scan_id
        path = folder / ("flame.npz" if stage == "flame_fit" else "registered.ply")
        if not path.is_file():
            print(f"{scan_id}: not registered")
            continue
        vertices = read_npz(path)["vertices_mm"] if stage == "flame_fit" else read_mesh(path).vertices
        true = np.load(truth, allow_pickle=False)["vertices"].astype(float) * _MM_PER_METRE
        found[scan_id] = (vertices[: template.n_vertices], true)
    return found


def shared_vertices(template: Template, model: HeadModel) -> ndarray | None:
    """Give for each template vertex the model's vertex at the same place; None if they are different heads."""
    from scipy.spatial import cKDTree

    distance, rows = cKDTree(model.v_template).query(template.model.v_template)
    return rows if distance.max() < _SAME_VERTEX_M else None


def _print_errors(found: dict[str, tuple[ndarray, ndarray]], rows: ndarray, template: Template) -> None:
    face = template.regions["face"]
    errors = {scan: np.linalg.norm(v - true[rows], axis=1)[face] for scan, (v, true) in found.items()}
    for scan, error in errors.items():
        print(f"{scan:24s} vertex error {_spread(error)}")
    print(f"all {len(errors)} scans: vertex error on the face {_spread(np.concatenate(list(errors.values())))}")


def _print_consistency(
    found: dict[str, tuple[ndarray, ndarray]], model: HeadModel, template: Template, neutral: str
) -> None:
    face = template.regions["face"]
    faces = np.ascontiguousarray(model.faces, np.int64)
    errors = []
    for subject in sorted({scan.split("/")[0] for scan in found}):
        if f"{subject}/{neutral}" not in found:
            continue
        vertices, true = found[f"{subject}/{neutral}"]
        place = ClosestPoints(true, faces).query(vertices[face])
        for scan, (moved, moved_true) in found.items():
            if scan.startswith(f"{subject}/") and not scan.endswith(f"/{neutral}"):
                expected = (moved_true[faces[place.face]] * place.barycentric[:, :, None]).sum(axis=1)
                errors.append(np.linalg.norm(moved[face] - expected, axis=1))
                print(f"{scan:24s} consistency with {neutral} {_spread(errors[-1])}")
    print(f"all {len(errors)} pairs: consistency on the face {_spread(np.concatenate(errors))}")


def _spread(values: ndarray) -> str:
    return f"median {np.median(values):.3f} mm, p90 {np.percentile(values, 90):.3f} mm"


if __name__ == "__main__":
    main()
