"""Fitting what `pipelines.fit_inputs` read, by whatever kind of model, and writing what came of it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from nphm_core.config import FitConfig
from nphm_core.errors import FittingError, TemplateError
from nphm_core.fitting.fit import fit_heads
from nphm_core.fitting.fit_linear import fit_linear_heads
from nphm_core.fitting.observations import Observation, checked_observation, observe_mesh
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh, boundary_vertices, vertex_normals
from nphm_core.io.files import atomic_write, write_json, write_safetensors
from nphm_core.io.meshes import write_mesh
from nphm_core.meshing.grid import HEAD_BOX
from nphm_core.models.checkpoint import from_pretrained
from nphm_core.models.linear_head import LinearHead
from nphm_core.seeds import rng_for
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.stages import MODEL_STAGES
from nphm_core.template.template import Template
from pipelines.fit_inputs import FitInput

log = logging.getLogger("nphm")

_OVERSAMPLED = 4
# In canonical units, around the model's meshing box.
_BOX_MARGIN = 0.1
_MIN_INSIDE = 0.2
_SEEN_MM = 8.0
_COLOUR_MAX_MM = 3.0


@dataclass(frozen=True)
class Fitted:
    """One fitted scan."""

    scan: FitInput
    head: Any
    """NeuralHead or LinearHead."""
    identity_code: Float[ndarray, " n_identity"]
    expression_code: Float[ndarray, " n_expression"]
    T_metric_mesh: Similarity
    """From what was read of the scan to metric space; a scan without a unit gets the head's size."""
    T_canonical_metric: Similarity
    measures: dict[str, Any]


def usable_scans(scans: list[FitInput]) -> tuple[list[FitInput], dict[str, str]]:
    """Give the scans with enough points, and why the others are left out."""
    usable, failed = [], {}
    for scan in scans:
        try:
            checked_observation(Observation(scan.mesh.vertices))
        except FittingError as error:
            failed[scan.scan_id] = str(error)
        else:
            usable.append(scan)
    return usable, failed


def fitted_heads(
    scans: list[FitInput], model: Path, device: str, settings: FitConfig, seed: int, template: Template | None
) -> list[Fitted]:
    """Fit a model to scans; those of one subject share the identity."""
    template_hash = None if template is None else template.hash
    head = from_pretrained(model, template_hash=template_hash, device=_device(device))
    subjects = list(dict.fromkeys(scan.subject for scan in scans))
    groups = [[scan for scan in scans if scan.subject == subject] for subject in subjects]
    rng = rng_for(seed, "fit", ",".join(subjects))
    problems = [tuple(_observation(scan, settings, rng) for scan in group) for group in groups]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    fit = fit_linear_heads if isinstance(head, LinearHead) else fit_heads
    out = []
    for group, result in zip(groups, fit(head, problems, settings, generator=generator), strict=True):
        for k, scan in enumerate(group):
            measures = {
                "residual_mm": round(result.residual_mm[k], 4),
                "residual_p95_mm": round(result.residual_p95_mm[k], 4),
                "converged_share": round(result.converged_share[k], 4),
                "energies": [round(energy, 2) for energy in result.energies],
            }
            pose = result.T_canonical_observed[k]
            out.append(_fitted(scan, head, result.identity_code, result.expression_codes[k], pose, measures))
    return out


def write_fit(
    folder: Path, fitted: Fitted, settings: FitConfig, template: Template | None, picture_px: int
) -> dict[str, Any]:
    """Write one scan's files and give the facts of its fit.json."""
    folder.mkdir(parents=True, exist_ok=True)
    scan, T_metric_canonical = fitted.scan, fitted.T_canonical_metric.inverse()
    facts = {
        "scan": scan.scan_id,
        "space": "metric",
        "unit": "mm",
        "stage": "fit",
        "stage_version": MODEL_STAGES["fit"],
        "T_canonical_metric": fitted.T_canonical_metric.to_json(),
        "mm_per_read_unit": round(fitted.T_metric_mesh.scale, 6),
        "aligned_by": scan.aligned_by,
        "template_hash": fitted.head.template_hash,
        "torch": torch.__version__,
        "warnings": list(scan.warnings),
    }
    canonical = _posed_mesh(fitted, settings.resolution)
    mesh = canonical.with_vertices(T_metric_canonical.apply(canonical.vertices))
    write_mesh(folder / "mesh.ply", mesh, facts)
    codes = {"identity_code": fitted.identity_code, "expression_code": fitted.expression_code}
    arrays = {name: code.astype(np.float32) for name, code in codes.items()}
    write_safetensors(folder / "codes.safetensors", arrays, {"scan": scan.scan_id})
    if template is not None:
        facts |= _write_template_mesh(folder / "template_mesh.ply", fitted, template, facts)
    if picture_px:
        _draw(folder / "fit.png", fitted, mesh, picture_px)
    facts = facts | fitted.measures
    write_json(folder / "fit.json", facts | {"settings": settings.model_dump(mode="json")})
    return facts


def _fitted(
    scan: FitInput,
    head: Any,
    identity_code: ndarray,
    expression_code: ndarray,
    T_canonical_mesh: Similarity,
    measures: dict[str, Any],
) -> Fitted:
    scale = 1.0 if scan.is_metric else MM_PER_CANONICAL_UNIT * T_canonical_mesh.scale
    T_metric_mesh = Similarity(scale, np.eye(3), np.zeros(3))
    T_canonical_metric = T_canonical_mesh @ T_metric_mesh.inverse()
    return Fitted(scan, head, identity_code, expression_code, T_metric_mesh, T_canonical_metric, measures)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise FittingError(f"the device {name} is not there; expected a GPU that PyTorch sees. Give --device cpu")
    return name


def _observation(scan: FitInput, settings: FitConfig, rng: np.random.Generator) -> Observation:
    """Draw more points than are used, and leave out what lies far from any head: shoulders, a chair."""
    n = _OVERSAMPLED * settings.n_points
    seen = observe_mesh(
        scan.mesh,
        n,
        rng=rng,
        mm_per_unit=scan.mm_per_unit,
        anchors=scan.anchors,
        T_canonical_observed=scan.T_canonical_mesh,
    )
    if scan.T_canonical_mesh is None:
        return seen
    at = scan.T_canonical_mesh.apply(seen.points)
    low, high = np.array(HEAD_BOX.low) - _BOX_MARGIN, np.array(HEAD_BOX.high) + _BOX_MARGIN
    inside = ((at > low) & (at < high)).all(axis=1)
    # Else the pose is off and says nothing of what is head.
    if inside.mean() < _MIN_INSIDE:
        return seen
    normals = None if seen.normals is None else seen.normals[inside]
    return Observation(seen.points[inside], normals, None, seen.anchors, seen.T_canonical_observed, seen.mm_per_unit)


def _codes(fitted: Fitted) -> tuple[torch.Tensor, torch.Tensor]:
    like = fitted.head.identity_codes
    return (
        torch.from_numpy(fitted.identity_code)[None].to(like),
        torch.from_numpy(fitted.expression_code)[None].to(like),
    )


def _posed_mesh(fitted: Fitted, resolution: int) -> Mesh:
    """Give the fitted head's surface in its expression, in canonical units."""
    head = fitted.head
    if isinstance(head, LinearHead):
        return Mesh(head.posed(fitted.identity_code, fitted.expression_code), head.faces)
    from nphm_core.meshing import Extraction, posed_mesh

    identity, expression = _codes(fitted)
    own = expression[0] if head.expression is not None else None
    mesh = posed_mesh(head, identity[0], own, resolution, how=Extraction(keep_largest=True))
    if mesh.n_faces == 0:
        raise FittingError(
            "the fitted head has no surface in the box of canonical space; expected a head. Train the model longer, or "
            f"give a larger resolution. Scan {fitted.scan.scan_id}"
        )
    return mesh


def _write_template_mesh(path: Path, fitted: Fitted, template: Template, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the head in the template's topology, its landmarks beside it; give what is to be said of it.

    Backward models and linear ones do not have it: the first cannot move canonical vertices, the mesh of the second
    is a subdivision of the template already.
    """
    head = fitted.head
    for stale in (path, path.with_suffix(".json")):
        stale.unlink(missing_ok=True)
    if isinstance(head, LinearHead) or head.is_backward:
        return {}
    from nphm_core.meshing.template_mesh import template_head

    identity, expression = _codes(fitted)
    own, shown = (expression, 0) if head.expression is not None else (None, None)
    try:
        found = template_head(head, template, identity[0], own)
    except TemplateError as error:
        log.warning("%s: no mesh in the template's topology: %s", fitted.scan.scan_id, error)
        return {"warnings": [*facts["warnings"], str(error)]}
    T_metric_canonical = fitted.T_canonical_metric.inverse()
    mesh = found.mesh(shown)
    landmarks = {str(k): T_metric_canonical.apply(point[None])[0] for k, point in found.landmarks(shown).items()}
    more = {"template": template.name, "template_hash": template.hash, "landmarks_mm": landmarks}
    write_mesh(path, mesh.with_vertices(T_metric_canonical.apply(mesh.vertices)), facts | more)
    return {"landmarks_mm": landmarks}


def _draw(path: Path, fitted: Fitted, mesh: Mesh, picture_px: int) -> None:
    from nphm_core.report.fit_picture import FitView, fit_picture

    scan = fitted.scan.mesh
    normals = scan.normals if scan.n_faces == 0 else None
    shown = Mesh(fitted.T_metric_mesh.apply(scan.vertices), scan.faces, normals, scan.colours)
    distance, is_seen = _distances(mesh, shown)
    T_head_metric = Similarity(MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3)) @ fitted.T_canonical_metric
    view = FitView(shown, mesh, _face_points(mesh, fitted), distance, is_seen)
    measures = fitted.measures
    lines = [f"median {measures['residual_mm']:.2f} mm from the scan's points to the fit", *fitted.scan.warnings]
    picture = fit_picture(
        view, T_head_metric, fitted.scan.scan_id, lines, tile_px=picture_px, colour_max_mm=_COLOUR_MAX_MM
    )
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        picture.save(stream, format="PNG")


def _face_points(mesh: Mesh, fitted: Fitted) -> Float[ndarray, "n 3"]:
    """Give points of the face, in metric space: the fitted anchors, or the linear head's."""
    head = fitted.head
    if isinstance(head, LinearHead):
        anchors = head.posed(fitted.identity_code, fitted.expression_code)[head.anchors]
    else:
        with torch.no_grad():
            anchors = head.identity.anchors(_codes(fitted)[0])[0].double().cpu().numpy()
    return fitted.T_canonical_metric.inverse().apply(anchors)


def _distances(mesh: Mesh, scan: Mesh) -> tuple[Float[ndarray, " n_vertices"], Bool[ndarray, " n_vertices"]]:
    """Give the distance of each vertex to the scan, and whether the scan shows it."""
    if scan.n_faces:
        found = ClosestPoints(scan.vertices, scan.faces).query(mesh.vertices)
        offset = found.point - mesh.vertices
        distance = np.linalg.norm(offset, axis=1)
        # What is nearest to the rim of a scan lies beside the scan.
        rim = boundary_vertices(scan.n_vertices, scan.faces)[scan.faces[found.face]]
        beside = (rim & (found.barycentric > 0.02)).sum(axis=1) >= 1
    else:
        from scipy.spatial import cKDTree

        distance, nearest = cKDTree(scan.vertices).query(mesh.vertices)
        offset = scan.vertices[nearest] - mesh.vertices
        # Between points of a cloud the nearest one is to the side: what counts is the way along the normal.
        normals = vertex_normals(mesh.vertices, mesh.faces)
        spacing = float(np.median(cKDTree(scan.vertices).query(scan.vertices[:2000], k=2)[0][:, 1]))
        along = np.abs((offset * normals).sum(axis=1))
        beside = np.sqrt(np.maximum(distance**2 - along**2, 0)) > 3 * spacing
        distance = along
    return distance, (distance < _SEEN_MM) & ~beside
