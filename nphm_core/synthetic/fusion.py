"""From depth images to a triangle mesh: a truncated signed distance on voxels, and a surface out of it.

Averages the projective distances of all views (Curless and Levoy 1996) in the blocks of voxels that any depth image
touches, then puts one vertex into each cell that the surface crosses (surface nets, Gibson 1998) where all eight
corners were seen. What no view saw stays open, as in a scan. Lengths in mm, depths along the camera's axis.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int
from numba import njit
from numpy import ndarray

from nphm_core.registration.cameras import Camera

_BLOCK = 8
# Rays that hit at 75 degrees or more measure little.
_MAX_JUMP_VOXELS = 4.0


@dataclass(frozen=True)
class DepthView:
    """What one view of a sensor measured."""

    camera: Camera
    depth_mm: Float32[ndarray, "height width"]
    """0 where nothing was measured."""


def fuse_views(
    views: list[DepthView], *, voxel_mm: float, truncation_voxels: float = 3.0
) -> tuple[Float[ndarray, "n 3"], Int[ndarray, "m 3"]]:
    """Give vertices and faces of the surface that the views agree on."""
    points = np.concatenate([_measured_points(view) for view in views])
    margin = (truncation_voxels + 2) * voxel_mm
    origin = points.min(0) - margin
    blocks = np.ceil((points.max(0) + margin - origin) / (voxel_mm * _BLOCK)).astype(np.int64)
    active = _active_blocks(points, origin, voxel_mm, truncation_voxels, blocks)
    shape = tuple(int(n) for n in blocks * _BLOCK)
    distance, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for view in views:
        camera = view.camera
        frame = np.array([camera.focal_px, camera.width / 2, camera.height / 2, voxel_mm, truncation_voxels * voxel_mm])
        _integrate(
            np.ascontiguousarray(view.depth_mm, np.float32), np.ascontiguousarray(camera.T_camera_scan, np.float64),
            frame, origin, active, distance, weight,
        )  # fmt: skip
    cell_vertex = np.full(shape, -1, np.int32)
    count = _count_cells(active, distance, weight)
    vertices = np.empty((count, 3))
    _place_vertices(active, distance, weight, cell_vertex, vertices)
    quads = np.empty((3 * count, 4), np.int64)
    quads = quads[: _join_vertices(active, distance, weight, cell_vertex, quads)]
    return origin + voxel_mm * vertices, _cut_quads(vertices, quads)


def _measured_points(view: DepthView) -> Float[ndarray, "n 3"]:
    # Every second pixel in each direction is enough to find the blocks.
    rows, columns = np.nonzero(view.depth_mm[::2, ::2])
    rows, columns = 2 * rows, 2 * columns
    depth = view.depth_mm[rows, columns].astype(float)
    camera = view.camera
    x = (columns + 0.5 - camera.width / 2) / camera.focal_px
    y = (camera.height / 2 - rows - 0.5) / camera.focal_px
    local = np.stack([x * depth, y * depth, -depth], axis=1)
    return camera.position + local @ camera.axes


def _active_blocks(
    points: Float[ndarray, "n 3"],
    origin: Float[ndarray, " 3"],
    voxel_mm: float,
    truncation_voxels: float,
    blocks: Int[ndarray, " 3"],
) -> Int[ndarray, "n_active 3"]:
    mark = np.zeros(tuple(blocks), bool)
    position = (points - origin) / voxel_mm
    reach = truncation_voxels + 1
    for corner in np.ndindex(2, 2, 2):
        index = ((position + reach * (2.0 * np.array(corner) - 1)) // _BLOCK).astype(np.int64)
        mark[tuple(np.clip(index, 0, blocks - 1).T)] = True
    return np.ascontiguousarray(np.argwhere(mark))


def _cut_quads(vertices: Float[ndarray, "n 3"], quads: Int[ndarray, "k 4"]) -> Int[ndarray, "m 3"]:
    """Cut each quadrangle along its shorter diagonal."""
    a, b, c, d = (vertices[quads[:, i]] for i in range(4))
    first = ((a - c) ** 2).sum(1) <= ((b - d) ** 2).sum(1)
    one = np.where(first[:, None], quads[:, [0, 1, 2]], quads[:, [0, 1, 3]])
    two = np.where(first[:, None], quads[:, [0, 2, 3]], quads[:, [1, 2, 3]])
    return np.stack([one, two], axis=1).reshape(-1, 3)


@njit(cache=True, nogil=True)
def _depth_at(depth, u, v, max_jump):
    # Bilinear; 0 where a neighbour is missing or the surface breaks off.
    height, width = depth.shape
    column, row = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
    if column < 0 or row < 0 or column + 1 >= width or row + 1 >= height:
        return 0.0
    a, b = depth[row, column], depth[row, column + 1]
    c, d = depth[row + 1, column], depth[row + 1, column + 1]
    low, high = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
    if low <= 0 or high - low > max_jump:
        return 0.0
    x, y = u - 0.5 - column, v - 0.5 - row
    return (a * (1 - x) + b * x) * (1 - y) + (c * (1 - x) + d * x) * y


@njit("void(f4[:,::1], f8[:,::1], f8[::1], f8[::1], i8[:,::1], f4[:,:,::1], f4[:,:,::1])", cache=True, nogil=True)
def _integrate(depth, T_camera_scan, frame, origin, active, distance, weight):
    focal, half_width, half_height, voxel, truncation = frame
    r = T_camera_scan
    for block in active:
        for i in range(block[0] * _BLOCK, block[0] * _BLOCK + _BLOCK):
            for j in range(block[1] * _BLOCK, block[1] * _BLOCK + _BLOCK):
                for k in range(block[2] * _BLOCK, block[2] * _BLOCK + _BLOCK):
                    x, y, z = origin[0] + voxel * i, origin[1] + voxel * j, origin[2] + voxel * k
                    deep = -(r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + r[2, 3])
                    across = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + r[0, 3]
                    up = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + r[1, 3]
                    u, v = half_width + focal * across / deep, half_height - focal * up / deep
                    measured = _depth_at(depth, u, v, _MAX_JUMP_VOXELS * voxel)
                    gap = measured - deep
                    if measured <= 0 or gap < -truncation:
                        continue
                    # Behind the surface a view knows less and less.
                    trust = 1.0 if gap > -voxel else (truncation + gap) / (truncation - voxel)
                    old = weight[i, j, k]
                    gap = min(gap, truncation)
                    distance[i, j, k] = (distance[i, j, k] * old + gap * trust) / (old + trust + 1e-12)
                    weight[i, j, k] = old + trust


@njit(cache=True, nogil=True)
def _is_crossed(i, j, k, distance, weight):
    inside = 0
    if i + 1 >= distance.shape[0] or j + 1 >= distance.shape[1] or k + 1 >= distance.shape[2]:
        return False
    for a in range(2):
        for b in range(2):
            for c in range(2):
                if weight[i + a, j + b, k + c] < 0.05:
                    return False
                inside += distance[i + a, j + b, k + c] < 0
    return 0 < inside < 8


@njit("i8(i8[:,::1], f4[:,:,::1], f4[:,:,::1])", cache=True, nogil=True)
def _count_cells(active, distance, weight):
    count = 0
    for block in active:
        for i in range(block[0] * _BLOCK, block[0] * _BLOCK + _BLOCK):
            for j in range(block[1] * _BLOCK, block[1] * _BLOCK + _BLOCK):
                for k in range(block[2] * _BLOCK, block[2] * _BLOCK + _BLOCK):
                    count += _is_crossed(i, j, k, distance, weight)
    return count


@njit(cache=True, nogil=True)
def _mean_crossing(i, j, k, distance, out):
    n = 0
    out[:] = 0.0
    for axis in range(3):
        di, dj, dk = axis == 0, axis == 1, axis == 2
        for a in range(2):
            for b in range(2):
                p = i + (0 if di else a)
                q = j + (0 if dj else (a if di else b))
                r = k + (0 if dk else b)
                f, g = distance[p, q, r], distance[p + di, q + dj, r + dk]
                if (f < 0) != (g < 0):
                    t = f / (f - g)
                    out[0] += p + t * di
                    out[1] += q + t * dj
                    out[2] += r + t * dk
                    n += 1
    out /= n


@njit("void(i8[:,::1], f4[:,:,::1], f4[:,:,::1], i4[:,:,::1], f8[:,::1])", cache=True, nogil=True)
def _place_vertices(active, distance, weight, cell_vertex, vertices):
    n = 0
    for block in active:
        for i in range(block[0] * _BLOCK, block[0] * _BLOCK + _BLOCK):
            for j in range(block[1] * _BLOCK, block[1] * _BLOCK + _BLOCK):
                for k in range(block[2] * _BLOCK, block[2] * _BLOCK + _BLOCK):
                    if _is_crossed(i, j, k, distance, weight):
                        _mean_crossing(i, j, k, distance, vertices[n])
                        cell_vertex[i, j, k] = n
                        n += 1


@njit("i8(i8[:,::1], f4[:,:,::1], f4[:,:,::1], i4[:,:,::1], i8[:,::1])", cache=True, nogil=True)
def _join_vertices(active, distance, weight, cell_vertex, quads):
    # Each crossed edge of the grid joins the four cells around it; outside is where the distance is positive.
    n = 0
    for block in active:
        for i in range(max(block[0] * _BLOCK, 1), block[0] * _BLOCK + _BLOCK):
            for j in range(max(block[1] * _BLOCK, 1), block[1] * _BLOCK + _BLOCK):
                for k in range(max(block[2] * _BLOCK, 1), block[2] * _BLOCK + _BLOCK):
                    if cell_vertex[i, j, k] < 0:
                        continue
                    inside = distance[i, j, k] < 0
                    for axis in range(3):
                        di, dj, dk = axis == 0, axis == 1, axis == 2
                        if (distance[i + di, j + dj, k + dk] < 0) == inside:
                            continue
                        # One step back along each of the two other axes, in right-handed order.
                        bi, bj, bk = axis == 2, axis == 0, axis == 1
                        ci, cj, ck = axis == 1, axis == 2, axis == 0
                        p = cell_vertex[i - bi, j - bj, k - bk]
                        q = cell_vertex[i - bi - ci, j - bj - cj, k - bk - ck]
                        r = cell_vertex[i - ci, j - cj, k - ck]
                        if p < 0 or q < 0 or r < 0:
                            continue
                        quads[n, 0], quads[n, 2] = cell_vertex[i, j, k], q
                        quads[n, 1], quads[n, 3] = (p, r) if inside else (r, p)
                        n += 1
    return n
