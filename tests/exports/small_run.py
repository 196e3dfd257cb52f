"""A run in small: a head model with FLAME's joints in the form of a ball, and registered scans of two subjects."""

import json

import numpy as np

from nphm_core.config import SubdivideConfig
from nphm_core.exports.registered_scan import RegisteredScan
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.subdivision import subdivide_surface, subdivided_faces
from nphm_core.io.files import write_json, write_npz
from nphm_core.io.meshes import write_mesh
from nphm_core.records import scan_folder, write_record
from nphm_core.registration.subdivide import template_hierarchy
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.template.model import FLAME_JOINTS, HeadModel
from nphm_core.template.rotations import rotation_matrices
from nphm_core.template.template import REGIONS, LandmarkEmbedding, Template, bare_template
from tests.meshing.sphere_head import _anchor_vertices, ball

EXPRESSIONS = {"neutral": "closed", "mouth-open": "open", "smile": ""}
SUBDIVISION = SubdivideConfig(levels=1)


def ball_model(n_levels=3, licence="CC0-1.0"):
    """A ball of 10 cm with every part that FLAME has: bases, correctives, skinning, joints that shapes move."""
    unit, faces = ball(n_levels)
    rng = np.random.default_rng(5)
    n = len(unit)
    weights = rng.random((n, 5)) ** 4
    weights /= weights.sum(axis=1, keepdims=True)
    identity = 0.004 * rng.standard_normal((n, 3, 4)).astype(np.float32)
    regressor = rng.random((5, n))
    regressor /= regressor.sum(axis=1, keepdims=True)
    return HeadModel(
        v_template=0.1 * unit,
        faces=faces,
        shapedirs_identity=identity,
        shapedirs_expression=0.004 * rng.standard_normal((n, 3, 3)).astype(np.float32),
        weights=weights,
        parents=(-1, 0, 1, 1, 1),
        joint_names=FLAME_JOINTS,
        joints=regressor @ (0.1 * unit),
        joints_identity=np.einsum("jn,ndk->jdk", regressor, identity),
        posedirs=0.001 * rng.standard_normal((n, 3, 36)).astype(np.float32),
        pose_joints=(1, 2, 3, 4),
        expression_names=("browUp", "jawForward", "pucker"),
        name="ball",
        licence=licence,
        landmarks68=(np.arange(68), np.tile([0.5, 0.3, 0.2], (68, 1))),
    )


def ball_template(**more) -> Template:
    model = ball_model(**more)
    bare, unit = bare_template(model), 10 * model.v_template
    regions = {name: np.zeros(len(unit), bool) for name in REGIONS} | {
        "face": unit[:, 2] > 0.5,
        "ears": unit[:, 0] > 0.9,
    }
    return Template(model, LandmarkEmbedding.empty(), regions, bare.pairs, _anchor_vertices(unit), bare.hash)


def registered_scans(template, subjects=("s001", "s002")):
    """Scans with unlike poses; the registered mesh departs from the fit by known noise, the scan is a coloured part."""
    rng = np.random.default_rng(7)
    hierarchy = template_hierarchy(template, SUBDIVISION)
    faces = subdivided_faces(hierarchy, template.faces)[0]
    out = []
    for subject in subjects:
        identity = rng.standard_normal(template.model.n_identity)
        for expression, neutral in EXPRESSIONS.items():
            fit = template.model.coefficients(identity, rng.standard_normal(3), 0.1 * rng.standard_normal((5, 3)))
            turn = rotation_matrices(0.3 * rng.standard_normal((1, 3)))[0]
            T_metric_model = Similarity(1000 * rng.uniform(0.98, 1.02), turn, rng.uniform(-50, 50, 3))
            vertices = T_metric_model.apply(template.model.posed(fit))
            # The head's pose is removed, and here some of the model's own, too: both maps have to be used.
            to_units = Similarity(
                1000 / MM_PER_CANONICAL_UNIT,
                rotation_matrices(0.1 * rng.standard_normal((1, 3)))[0],
                rng.uniform(-0.1, 0.1, 3),
            )
            T_canonical_metric = to_units @ T_metric_model.inverse()
            fine = subdivide_surface(hierarchy, template.faces, vertices)
            fine[: template.n_vertices] = vertices + 0.1 * rng.standard_normal(vertices.shape)
            colours = rng.integers(0, 255, (template.n_vertices, 3), dtype=np.uint8)
            scan = Mesh(vertices, template.faces[:300], colours=colours)
            out.append(
                RegisteredScan(
                    subject,
                    expression,
                    neutral,
                    Mesh(fine, faces),
                    fit,
                    vertices,
                    T_metric_model,
                    T_canonical_metric,
                    1.0,
                    lambda scan=scan: scan,
                )
            )
    return out


def write_run(results, template, scans, failed=()):
    """Write what the stages of a run leave of these scans."""
    for scan in scans:
        folder = scan_folder(results, scan.scan_id)
        facts = {"space": "metric", "unit": "mm", "template_hash": template.hash, "template": template.name}
        levels = {"levels": SUBDIVISION.levels, "region": SUBDIVISION.region}
        write_mesh(folder / "registered.ply", scan.registered, facts | levels)
        flame = {
            "T_metric_model": scan.T_metric_model.to_json(),
            "T_canonical_metric": scan.T_canonical_metric.to_json(),
        }
        write_npz(
            folder / "flame.npz",
            {
                "identity": scan.fit.identity,
                "expression": scan.fit.expression,
                "joint_rotvec": scan.fit.rotations,
                "vertices_mm": scan.fit_vertices_mm,
            },
        )
        write_mesh(folder / "scan.ply", scan.read_scan(), {"space": "scan", "unit": "mm"})
        turned = Similarity(1.0, np.diag([-1.0, -1.0, 1.0]), np.array([0.0, 5.0, 0.0]))
        landmarks = {"T_head_metric": turned.to_json(), "points_mm": scan.registered.vertices[:9]}
        write_json(folder / "landmarks3d.json", {"mm_per_scan_unit": 1.0, "flip_faces": False} | landmarks)
        write_mesh(folder / "flame.ply", Mesh(scan.fit_vertices_mm, template.faces), facts | flame)
        n = scan.registered.n_vertices
        weights = {"distance_mm": np.linspace(0, 1, n).astype("f4"), "weight": np.ones(n, "f4")}
        write_npz(folder / "registered_weights.npz", weights)
        write_json(folder / "metrics.json", {"verdict": "ok", "reasons": [], "median_mm": 0.123})
        bad = scan.scan_id in failed
        artifacts = {"registered.ply": {"bytes": 1, "sha256": "a" * 64}}
        row = {"subject": scan.subject, "expression": scan.expression, "neutral": scan.neutral}
        for stage, metrics in (("ingest", {"row": row}), ("arap", {}), ("evaluate", {"verdict": "ok"})):
            status = (
                {"status": "failed", "reason": "no face"} if bad and stage == "arap" else {"status": "ok", "reason": ""}
            )
            more = {"artifacts": artifacts, "metrics": metrics, "version": 1, "stage": stage}
            write_record(results, scan.scan_id, stage, status | more)


def facts_of(folder):
    return json.loads((folder / "export.json").read_text())
