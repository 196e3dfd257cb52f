"""A second head model in the topology of a template, so that heads of two sources can be mixed in one corpus.

The template is registered once to the mean head of the other model, mouth open, so that lips do not touch. Every
visible vertex of the template then lies on a triangle of the other model, and whatever is linear there (mean,
components, skinning) is interpolated; hidden skin, which has no counterpart, follows its border harmonically. Lengths
in metres as in head models.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.config import ArapConfig, FlameFitConfig, SubdivideConfig
from nphm_core.errors import TemplateError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.components import connected_components
from nphm_core.geometry.mesh import boundary_vertices, unique_edges, vertex_normals
from nphm_core.geometry.sampling import interpolate
from nphm_core.geometry.subdivision import subdivided_faces
from nphm_core.io.files import read_npz, write_npz
from nphm_core.registration.arap import register_arap
from nphm_core.registration.correspondences import ScanTarget, Trust
from nphm_core.registration.flame_fit import ScanLandmarks, fit_flame
from nphm_core.registration.rims import rim_pairs
from nphm_core.registration.scan_surface import ScanSurface
from nphm_core.registration.subdivide import template_hierarchy
from nphm_core.spaces import Similarity, align_points
from nphm_core.template.model import HeadModel
from nphm_core.template.template import Template, topology_hash

_MM_PER_METRE = 1000.0
_OPEN_JAW_RAD = 0.2
_MAX_DISTANCE_M = 0.0015
"""A registered vertex farther than this from the other head has no counterpart there."""
_MIN_COSINE = 0.5
_LEVELS = 1
_INNER = ("hidden", "mouth_interior", "eyeballs")
_MEASURED = ("face", "ears", "scalp")


@dataclass(frozen=True)
class Carrier:
    """Where a template's vertices lie on another head; what has no place there follows its border."""

    face: Int[ndarray, " n_vertices"]
    """Triangle of the other model; -1 where there is no counterpart."""
    barycentric: Float[ndarray, "n_vertices 3"]
    faces: Int[ndarray, "m 3"]
    """Of the template."""

    def carried(
        self, values: Float[ndarray, "n_other k"], other_faces: Int[ndarray, "m_other 3"]
    ) -> Float[ndarray, "n_vertices k"]:
        """Interpolate values at the other model's vertices; vertices without a place get harmonic ones."""
        known = self.face >= 0
        out = np.zeros((len(known), values.shape[1]))
        out[known] = interpolate(values, other_faces, self.face[known], self.barycentric[known])
        return _harmonic(out, known, self.faces)


def carry_model(template: Template, other: Template, *, rng: np.random.Generator) -> HeadModel:
    """Give the other template's head model in the topology and the frame of the first one.

    Raises RegistrationError where the template cannot be registered to the other mean head.
    """
    carrier = find_carrier(template, other, rng=rng)
    model = other.model
    parts = [
        model.v_template,
        model.shapedirs_identity.reshape(model.n_vertices, -1),
        model.shapedirs_expression.reshape(model.n_vertices, -1),
        model.weights,
    ]
    if model.posedirs is not None:
        parts.append(model.posedirs.reshape(model.n_vertices, -1))
    values = np.concatenate([part.astype(np.float64) for part in parts], axis=1)
    carried = carrier.carried(values, model.faces)
    split = np.cumsum([part.shape[1] for part in parts])[:-1]
    mean, identity, expression, weights, *posedirs = np.split(carried, split, axis=1)
    mean = _mean_shape(template, carrier, mean)
    n = template.n_vertices
    found = HeadModel(
        v_template=mean,
        faces=template.faces,
        shapedirs_identity=identity.reshape(n, 3, -1),
        shapedirs_expression=expression.reshape(n, 3, -1),
        weights=weights / weights.sum(1, keepdims=True),
        parents=model.parents,
        joint_names=model.joint_names,
        joints=model.joints,
        joints_identity=model.joints_identity,
        joints_expression=model.joints_expression,
        posedirs=posedirs[0].reshape(n, 3, -1) if posedirs else None,
        pose_joints=model.pose_joints,
        expression_names=model.expression_names,
        name=f"{model.name}-carried"[:40],
        licence=model.licence,
    )
    measured = np.any([template.regions[name] for name in _MEASURED], axis=0)
    pose = align_points(mean[measured], template.model.v_template[measured], with_scale=False)
    return moved_model(found, pose)


def find_carrier(template: Template, other: Template, *, rng: np.random.Generator) -> Carrier:
    """Register the template to the other mean head, mouth open, and look where its vertices lie."""
    opened = {"jaw": np.array([_OPEN_JAW_RAD, 0.0, 0.0])} if other.model.joint("jaw") is not None else {}
    vertices = other.model.pose(rotations=opened)
    seen = ~np.any([other.regions[name] for name in _INNER], axis=0)
    scan_faces = other.faces[seen[other.faces].all(1)]
    scan = _as_scan(vertices * _MM_PER_METRE, scan_faces)
    landmarks = ScanLandmarks(
        other.landmarks.index,
        other.landmarks.points(vertices, other.faces) * _MM_PER_METRE,
        other.landmarks.weight,
    )
    fit = fit_flame(template, scan, landmarks, FlameFitConfig(), fit_scale=False, rng=rng)
    hierarchy = template_hierarchy(template, SubdivideConfig(levels=_LEVELS))
    inner = np.any([template.regions[name] for name in _INNER], axis=0)
    registered = register_arap(
        fit.vertices_mm,
        template.faces,
        hierarchy,
        ScanTarget(scan),
        ArapConfig(),
        trust=Trust.of((~inner).astype(float)),
        pairs=rim_pairs(template.model.v_template * _MM_PER_METRE, template.faces, template.regions),
    ).vertices
    faces = subdivided_faces(hierarchy, template.faces)[0]
    normals = vertex_normals(registered, faces)[: template.n_vertices]
    return _placed(template, other, registered[: template.n_vertices] / _MM_PER_METRE, normals, vertices)


def moved_model(model: HeadModel, T_there_here: Similarity) -> HeadModel:
    """Give the same heads in another frame; the similarity must be rigid."""
    turn = T_there_here.rotation
    posedirs = model.posedirs
    if posedirs is not None:
        split = posedirs.reshape(model.n_vertices, 3, -1, 3, 3)
        posedirs = np.einsum("ab,vbjkl,ck,dl->vajcd", turn, split, turn, turn, optimize=True).reshape(posedirs.shape)
    return replace(
        model,
        v_template=T_there_here.apply(model.v_template),
        shapedirs_identity=np.einsum("ab,vbk->vak", turn, model.shapedirs_identity),
        shapedirs_expression=np.einsum("ab,vbk->vak", turn, model.shapedirs_expression),
        joints=T_there_here.apply(model.joints),
        joints_identity=np.einsum("ab,jbk->jak", turn, model.joints_identity),
        joints_expression=(
            None if model.joints_expression is None else np.einsum("ab,jbk->jak", turn, model.joints_expression)
        ),
        posedirs=posedirs,
    )


_ARRAYS = ("v_template", "weights", "joints", "joints_identity")
_BASES = ("shapedirs_identity", "shapedirs_expression", "posedirs")


def write_carried_model(path: Path, model: HeadModel) -> None:
    """Write a carried model without its faces, bases in half precision: a few MB."""
    arrays = {key: getattr(model, key).astype(np.float32) for key in _ARRAYS}
    # Half precision of micrometres: metres would fall among the subnormal numbers.
    arrays |= {key: (1e3 * getattr(model, key)).astype(np.float16) for key in _BASES if getattr(model, key) is not None}
    names = {"joint_names": model.joint_names, "expression_names": model.expression_names}
    arrays |= {key: np.array(value) for key, value in names.items()}
    arrays |= {"parents": np.array(model.parents), "pose_joints": np.array(model.pose_joints, np.int64)}
    arrays |= {"name": np.array(model.name), "licence": np.array(model.licence)}
    arrays["topology"] = np.array(topology_hash(model.n_vertices, model.faces))
    write_npz(path, arrays)


def read_carried_model(path: Path, template: Template) -> HeadModel:
    """Read what `write_carried_model` wrote for this template."""
    arrays = read_npz(path)
    if str(arrays["topology"]) != template.hash:
        raise TemplateError(
            f"the carried model has topology {str(arrays['topology'])[:8]}; expected that of the template, "
            f"{template.hash[:8]}. Carry the model again with this template. File {path}"
        )
    known: dict[str, Any] = {key: arrays[key].astype(np.float64) for key in _ARRAYS}
    known |= {key: np.float32(1e-3) * arrays[key].astype(np.float32) for key in _BASES if key in arrays}
    return HeadModel(
        **known,
        faces=template.faces,
        parents=tuple(arrays["parents"].tolist()),
        pose_joints=tuple(arrays["pose_joints"].tolist()),
        joint_names=tuple(arrays["joint_names"].tolist()),
        expression_names=tuple(arrays["expression_names"].tolist()),
        name=str(arrays["name"]),
        licence=str(arrays["licence"]),
    )


def _as_scan(vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> ScanSurface:
    used, index = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], index.reshape(-1, 3)
    n = len(vertices)
    border = boundary_vertices(n, faces)
    return ScanSurface(vertices, faces, vertex_normals(vertices, faces), border, np.ones(n), "none")


def _placed(
    template: Template,
    other: Template,
    registered: Float[ndarray, "n_vertices 3"],
    normals: Float[ndarray, "n_vertices 3"],
    vertices: Float[ndarray, "n_other 3"],
) -> Carrier:
    """Find the triangles: skin on visible skin, each eyeball on the eyeball of its side."""
    face, barycentric = np.full(len(registered), -1), np.zeros((len(registered), 3))
    skin, seen = (~np.any([part.regions[name] for name in _INNER], axis=0) for part in (template, other))
    _place(registered, skin, vertices, other.faces, seen, _MAX_DISTANCE_M, face, barycentric)
    _drop_wrong_side(normals, vertex_normals(vertices, other.faces), other.faces, face)
    rest = template.model.v_template
    for sign in (1.0, -1.0):
        ball = template.regions["eyeballs"] & (sign * rest[:, 0] > 0)
        target = other.regions["eyeballs"] & (sign * other.model.v_template[:, 0] > 0)
        if ball.any() and target.any():
            onto = _on_ball(rest, ball, vertices[target])
            _place(onto, ball, vertices, other.faces, target, np.inf, face, barycentric)
    return Carrier(face, barycentric, template.faces)


def _place(points, asked, vertices, faces, allowed, limit, face, barycentric) -> None:
    rows = np.flatnonzero(allowed[faces].all(1))
    found = ClosestPoints(vertices, np.ascontiguousarray(faces[rows])).query(points[asked], limit)
    hit = found.face >= 0
    at = np.flatnonzero(asked)[hit]
    face[at], barycentric[at] = rows[found.face[hit]], found.barycentric[hit]


def _drop_wrong_side(normals: ndarray, normals_there: ndarray, faces: ndarray, face: ndarray) -> None:
    """Take the place from vertices that face another way there: on an ear, front and back are a millimetre apart."""
    facing = (normals * normals_there[faces[face]].mean(1)).sum(1)
    face[(face >= 0) & (facing < _MIN_COSINE)] = -1


def _on_ball(rest: ndarray, ball: ndarray, target: ndarray) -> ndarray:
    """Scale and move a template's eyeball onto another one: same middle, same size."""
    middle, middle_there = rest[ball].mean(0), target.mean(0)
    size = np.linalg.norm(rest[ball] - middle, axis=1).mean()
    size_there = np.linalg.norm(target - middle_there, axis=1).mean()
    return middle_there + size_there / size * (rest - middle)


def _mean_shape(
    template: Template, carrier: Carrier, mean: Float[ndarray, "n_vertices 3"]
) -> Float[ndarray, "n_vertices 3"]:
    """Let hidden skin keep the template's own shape, bent to its border."""
    known = carrier.face >= 0
    rest = template.model.v_template
    rest = align_points(rest[known], mean[known], with_scale=False).apply(rest)
    return rest + _harmonic(np.where(known[:, None], mean - rest, 0.0), known, carrier.faces)


def _harmonic(
    values: Float[ndarray, "n k"], known: Bool[ndarray, " n"], faces: Int[ndarray, "m 3"]
) -> Float[ndarray, "n k"]:
    """Fill values that are not known so that each is the mean of its neighbours'; parts without any stay zero."""
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.linalg import splu

    label = connected_components(faces, len(values))
    asked = np.flatnonzero(~known & np.isin(label, np.unique(label[known])))
    if not len(asked):
        return values
    edges, _ = unique_edges(faces)
    both = np.concatenate([edges, edges[:, ::-1]])
    graph = coo_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(len(values), len(values))).tocsr()
    laplacian = (diags_array(graph.sum(1)) - graph).tocsr()[asked]
    out = values.copy()
    right = -(laplacian[:, np.flatnonzero(known)] @ values[known])
    out[asked] = splu(laplacian[:, asked].tocsc()).solve(right)
    return out
