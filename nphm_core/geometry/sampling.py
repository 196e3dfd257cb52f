"""Points on surfaces, as triangle and barycentric weights, and values interpolated at them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numba import njit
from numpy import ndarray


@dataclass(frozen=True)
class SurfaceSamples:
    """Points on a mesh, independent of where its vertices are."""

    face: Int64[ndarray, " n"]
    """Triangle of each point, ascending."""
    barycentric: Float[ndarray, "n 3"]
    """Weights of its corners, not negative, sum 1."""


def sample_surface(
    vertices: Float[ndarray, "n_vertices 3"],
    faces: Int64[ndarray, "n_faces 3"],
    n: int,
    *,
    rng: np.random.Generator,
    face_weights: Float[ndarray, " n_faces"] | None = None,
) -> SurfaceSamples:
    """Draw points uniformly by area, or by area times `face_weights`.

    Systematic: a triangle with the expected number x of points gets floor(x) or ceil(x) of them. Points come in the
    order of the faces. No area, and weights that are negative or not finite, raise ValueError.
    """
    if n < 0:
        raise ValueError(f"the number of samples is {n}; expected a number not below 0")
    weights = np.ones(len(faces)) if face_weights is None else np.ascontiguousarray(face_weights, np.float64)
    if weights.shape != (len(faces),):
        raise ValueError(f"face_weights have shape {weights.shape}; expected ({len(faces)},), one a triangle")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("face_weights hold values that are negative or not finite")
    faces = np.ascontiguousarray(faces, np.int64)
    mass = _mass(np.ascontiguousarray(vertices, np.float64), faces, weights)
    total = float(mass.sum())
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f"the weighted area is {total}; there is nothing to sample")
    face, barycentric = _systematic(mass, total, n, rng.random(), rng.random((n, 2), np.float32))
    return SurfaceSamples(face, barycentric)


def interpolate(
    values: Shaped[ndarray, "n_vertices ..."],
    faces: Int64[ndarray, "n_faces 3"],
    face: Int64[ndarray, " n"],
    barycentric: Float[ndarray, "n 3"],
) -> Float[ndarray, "n ..."]:
    """Interpolate values at the vertices linearly in triangles; a face of -1 gives NaN."""
    flat = np.ascontiguousarray(values, np.float64).reshape(len(values), -1)
    out = _interpolate(
        flat,
        np.ascontiguousarray(faces, np.int64),
        np.ascontiguousarray(face, np.int64),
        np.ascontiguousarray(barycentric, np.float64),
    )
    return out.reshape(len(face), *values.shape[1:])


@njit("f8[::1](f8[:,::1], i8[:,::1], f8[::1])", cache=True, nogil=True)
def _mass(vertices, faces, weights):
    out = np.empty(len(faces))
    for i in range(len(faces)):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        out[i] = weights[i] * 0.5 * np.sqrt(x * x + y * y + z * z)
    return out


@njit("Tuple((i8[::1], f8[:,::1]))(f8[::1], f8, i8, f8, f4[:,::1])", cache=True, nogil=True)
def _systematic(mass, total, n, offset, uniform):
    face, barycentric = np.empty(n, np.int64), np.empty((n, 3))
    last = len(mass) - 1
    while mass[last] == 0.0:
        last -= 1
    i, upto = 0, mass[0]
    for k in range(n):
        target = (k + offset) * total / n
        # Rounding of the sum may leave the last target just beyond it.
        while (upto <= target or mass[i] == 0.0) and i < last:
            i += 1
            upto += mass[i]
        face[k] = i
        root, v = np.sqrt(np.float64(uniform[k, 0])), np.float64(uniform[k, 1])
        barycentric[k, 0] = 1.0 - root
        barycentric[k, 1] = root * (1.0 - v)
        barycentric[k, 2] = root * v
    return face, barycentric


@njit("f8[:,::1](f8[:,::1], i8[:,::1], i8[::1], f8[:,::1])", cache=True, nogil=True)
def _interpolate(values, faces, face, barycentric):
    out = np.empty((len(face), values.shape[1]))
    for i in range(len(face)):
        if face[i] < 0:
            out[i] = np.nan
            continue
        a, b, c = faces[face[i], 0], faces[face[i], 1], faces[face[i], 2]
        for k in range(values.shape[1]):
            out[i, k] = (
                barycentric[i, 0] * values[a, k] + barycentric[i, 1] * values[b, k] + barycentric[i, 2] * values[c, k]
            )
    return out
