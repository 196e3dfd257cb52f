"""Smooth random fields in space, a function of place and seed alone.

Evaluated at positions on the resting mean head (material coordinates), a field moves with the skin: the same pore and
the same freckle in every expression of a subject. Lattice noise after Perlin, "An image synthesizer", 1985.
"""

import numpy as np
from jaxtyping import Float
from numba import njit
from numpy import ndarray


def smooth_noise(
    points_mm: Float[ndarray, "n 3"],
    cell_mm: float | tuple[float, float, float],
    seed: int,
    *,
    octaves: int = 1,
) -> Float[ndarray, " n"]:
    """Give a field with mean about 0 and standard deviation about 1 that varies over `cell_mm`.

    Three cell sizes stretch it along the axes. Each further octave has half the cell and half the amplitude.
    """
    cell = np.ones(3) * np.asarray(cell_mm, float)
    out, total = np.zeros(len(points_mm)), 0.0
    points = np.ascontiguousarray(points_mm, np.float64)
    for octave in range(octaves):
        amplitude = 0.5**octave
        _add_lattice_noise(points, cell / 2**octave, (seed * 1_000_003 + octave) % 2**62, amplitude, out)
        total += amplitude**2
    # The standard deviation of interpolated uniform numbers in [-1, 1], measured.
    return out / (0.40 * np.sqrt(total))


@njit(cache=True, nogil=True)
def _lattice_value(i, j, k, seed):
    h = np.uint64(i * 73856093 ^ j * 19349663 ^ k * 83492791 ^ seed)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    h = h ^ (h >> np.uint64(33))
    return np.float64(h >> np.uint64(11)) * (2.0 / 9007199254740992.0) - 1.0


@njit("void(f8[:,::1], f8[::1], i8, f8, f8[::1])", cache=True, nogil=True)
def _add_lattice_noise(points, cell, seed, amplitude, out):
    for n in range(len(points)):
        x, y, z = points[n, 0] / cell[0], points[n, 1] / cell[1], points[n, 2] / cell[2]
        i, j, k = np.int64(np.floor(x)), np.int64(np.floor(y)), np.int64(np.floor(z))
        x, y, z = x - i, y - j, z - k
        u = x * x * x * (x * (x * 6 - 15) + 10)
        v = y * y * y * (y * (y * 6 - 15) + 10)
        w = z * z * z * (z * (z * 6 - 15) + 10)
        total = 0.0
        for a in range(2):
            for b in range(2):
                low = _lattice_value(i + a, j + b, k, seed)
                high = _lattice_value(i + a, j + b, k + 1, seed)
                share = (u if a else 1 - u) * (v if b else 1 - v)
                total += share * (low + w * (high - low))
        out[n] += amplitude * total
