"""Write registration pairs from a run of the pipeline on synthetic scans: the linear fit, the scan, the truth.

    python -m benchmarks.fitted_pairs --scans DIR --model MODEL --results RESULTS --template FOLDER --out DIR ID ...

Input of `python -m benchmarks.registration`. The template must have been made of the head model MODEL whose vertices
the truth has (DIR/SUBJECT/EXPRESSION/truth.npz), or of some of its vertices.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy import ndarray

from benchmarks.known_truth import shared_vertices
from benchmarks.synthetic_pairs import RegistrationPair, write_pair
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.io.files import read_json, read_npz
from nphm_core.io.meshes import read_mesh
from nphm_core.registration.arap import trust_of_regions
from nphm_core.template.read import read_head_model
from nphm_core.template.template import Template, read_template

_SEEN_MM = 0.6


def main() -> None:
    """Write one file a scan, and print its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="+", metavar="SUBJECT/EXPRESSION")
    for name in ("scans", "results", "template", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", required=True, help="head model whose vertices the truth has")
    options = parser.parse_args()
    template = read_template(options.template)
    rows = shared_vertices(template, read_head_model(options.model))
    if rows is None:
        sys.exit("the template's vertices are not among the head model's; expected a template made of that model")
    options.out.mkdir(parents=True, exist_ok=True)
    for scan_id in options.ids:
        truth = 1000.0 * np.load(options.scans / scan_id / "truth.npz")["vertices"].astype(float)[rows]
        path = options.out / f"{scan_id.replace('/', '_')}.npz"
        write_pair(path, fitted_pair(options.results / "scans" / scan_id, template, truth))
        print(path)


def fitted_pair(folder: Path, template: Template, truth: ndarray) -> RegistrationPair:
    """Give the problem of one scan's folder; what counts are the face's vertices that the scan has."""
    scan = read_mesh(folder / "scan.ply")
    vertices = scan.vertices * read_json(folder / "landmarks3d.json")["mm_per_scan_unit"]
    seen = ClosestPoints(vertices, scan.faces).query(truth, _SEEN_MM).face >= 0
    trust = trust_of_regions(template.regions, template.n_vertices)
    return RegistrationPair(
        rest=read_npz(folder / "flame.npz")["vertices_mm"].astype(float),
        faces=template.faces.astype(np.int64),
        scan_vertices=vertices,
        scan_faces=scan.faces,
        truth=truth,
        measured=seen & template.regions["face"] & ~template.regions["hidden"],
        surface=vertices,
        surface_faces=scan.faces,
        trust=trust.weights,
        hair_prone=trust.hair_prone,
    )


if __name__ == "__main__":
    main()
