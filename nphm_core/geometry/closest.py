"""Closest points on triangle meshes and point clouds, exact in double precision.

Positions and distances are in one unit, any; distances are not squared. Regions of a triangle after Ericson,
Real-Time Collision Detection, 2005, section 5.1.5.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numba import njit
from numpy import ndarray

from nphm_core.geometry.bvh import STACK_SIZE, build_tree, checked_positions, morton_order

# Squared sine of the angle at a corner, below which a triangle counts as a line.
_DEGENERATE_SIN_SQ = 1e-14
_ZERO = np.float32(0)
_FAST = {"nnan", "nsz", "contract", "arcp"}


@dataclass(frozen=True)
class Closest:
    """The closest point of a surface, for each query."""

    face: Int64[ndarray, " n"]
    """Triangle (vertex, for a point cloud) that holds the point; -1 where nothing lies within the distance limit."""
    barycentric: Float[ndarray, "n 3"]
    """Weights of the triangle's corners; (1, 0, 0) for a point cloud, zero without a face."""
    point: Float[ndarray, "n 3"]
    """The point; NaN without a face."""
    distance: Float[ndarray, " n"]
    """Distance to it, not negative; infinite without a face."""


class ClosestPoints:
    """Finds closest points on one mesh, built once and asked often.

    A mesh without faces is a point cloud: its vertices are searched, `face` is the vertex index. Degenerate triangles
    count as the segments or points that they are.
    """

    def __init__(self, vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"]) -> None:
        """Build the search tree; later changes of the arrays have no effect on it."""
        self._tree = build_tree(vertices, faces)

    def query(self, points: Float[ndarray, "n 3"], max_distance: float = np.inf) -> Closest:
        """Find the closest point to each query; the order of queries does not matter for speed.

        Points that are not finite raise ValueError. On an edge shared by several triangles any one of them is named.
        """
        if not max_distance >= 0:
            raise ValueError(f"max_distance is {max_distance}; expected a number not below 0")
        points = checked_positions(points, "query points")
        tree = self._tree
        n = len(points)
        face, distance = np.empty(n, np.int64), np.empty(n)
        barycentric, point = np.empty((n, 3)), np.empty((n, 3))
        if n:
            _query(
                tree.nodes, tree.triangles, tree.index, points - tree.centre, morton_order(points),
                float(max_distance) ** 2, face, barycentric, point, distance,
            )  # fmt: skip
            point += tree.centre
        return Closest(face, barycentric, point, distance)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _on_segment(dx, dy, dz, px, py, pz):
    # Parameter and squared distance of the point of the segment from 0 to d that is closest to p.
    length_sq = dx * dx + dy * dy + dz * dz
    t = 0.0
    if length_sq > 0.0:
        t = min(max((px * dx + py * dy + pz * dz) / length_sq, 0.0), 1.0)
    x, y, z = px - t * dx, py - t * dy, pz - t * dz
    return t, x * x + y * y + z * z


@njit(cache=True, nogil=True, fastmath=_FAST)
def _on_degenerate(bx, by, bz, cx, cy, cz, px, py, pz):
    t, d = _on_segment(bx, by, bz, px, py, pz)
    v, w, best = t, 0.0, d
    t, d = _on_segment(cx, cy, cz, px, py, pz)
    if d < best:
        v, w, best = 0.0, t, d
    t, d = _on_segment(cx - bx, cy - by, cz - bz, px - bx, py - by, pz - bz)
    if d < best:
        v, w = 1.0 - t, t
    return v, w


@njit(cache=True, nogil=True, fastmath=_FAST)
def _on_triangle(bx, by, bz, cx, cy, cz, px, py, pz):
    # Weights of corners b and c of the point of triangle (0, b, c) that is closest to p.
    d1 = bx * px + by * py + bz * pz
    d2 = cx * px + cy * py + cz * pz
    if d1 <= 0.0 and d2 <= 0.0:
        return 0.0, 0.0
    bb = bx * bx + by * by + bz * bz
    bc = bx * cx + by * cy + bz * cz
    d3, d4 = d1 - bb, d2 - bc
    if d3 >= 0.0 and d4 <= d3:
        return 1.0, 0.0
    cc = cx * cx + cy * cy + cz * cz
    d5, d6 = d1 - bc, d2 - cc
    if d6 >= 0.0 and d5 <= d6:
        return 0.0, 1.0
    if bb * cc - bc * bc <= _DEGENERATE_SIN_SQ * bb * cc:
        return _on_degenerate(bx, by, bz, cx, cy, cz, px, py, pz)
    vc = d1 * d4 - d3 * d2
    if vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        return d1 / bb, 0.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        return 0.0, d2 / cc
    va = d3 * d6 - d5 * d4
    if va <= 0.0 and d4 >= d3 and d5 >= d6:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        return 1.0 - w, w
    scale = 1.0 / (va + vb + vc)
    return vb * scale, vc * scale


@njit(cache=True, nogil=True, fastmath=_FAST)
def _box_distance_sq(nodes, node, first, x, y, z):
    dx = max(max(nodes[node, first] - x, x - nodes[node, first + 3]), _ZERO)
    dy = max(max(nodes[node, first + 1] - y, y - nodes[node, first + 4]), _ZERO)
    dz = max(max(nodes[node, first + 2] - z, z - nodes[node, first + 5]), _ZERO)
    return dx * dx + dy * dy + dz * dz


@njit(cache=True, nogil=True, fastmath=_FAST)
def _distance_sq(triangles, i, px, py, pz):
    x, y, z = px - triangles[i, 0], py - triangles[i, 1], pz - triangles[i, 2]
    bx, by, bz = triangles[i, 3], triangles[i, 4], triangles[i, 5]
    cx, cy, cz = triangles[i, 6], triangles[i, 7], triangles[i, 8]
    v, w = _on_triangle(bx, by, bz, cx, cy, cz, x, y, z)
    x -= v * bx + w * cx
    y -= v * by + w * cy
    z -= v * bz + w * cz
    return x * x + y * y + z * z, v, w


@njit(cache=True, nogil=True, fastmath=_FAST)
def _nearest(nodes, codes, triangles, px, py, pz, seed, best, stack, stack_distance):
    # The nearest primitive with a squared distance below `best`, or -1, and the weights on it.
    x, y, z = np.float32(px), np.float32(py), np.float32(pz)
    found, best_v, best_w = -1, 0.0, 0.0
    d, v, w = _distance_sq(triangles, seed, px, py, pz)
    if d <= best:
        found, best, best_v, best_w = seed, d, v, w
    top = 0
    stack[0], stack_distance[0] = 0, _ZERO
    while top >= 0:
        code, bound = stack[top], stack_distance[top]
        top -= 1
        while code >= 0 and bound < best:
            left = _box_distance_sq(nodes, code, 0, x, y, z)
            right = _box_distance_sq(nodes, code, 6, x, y, z)
            near = 0 if left <= right else 1
            far_bound = max(left, right)
            if far_bound < best:
                top += 1
                stack[top], stack_distance[top] = codes[code, 13 - near], far_bound
            code, bound = codes[code, 12 + near], min(left, right)
        if code < 0 and bound < best:
            leaf = -1 - code
            for i in range(leaf >> 3, (leaf >> 3) + (leaf & 7)):
                d, v, w = _distance_sq(triangles, i, px, py, pz)
                if d < best or (d == best and found < 0):
                    found, best, best_v, best_w = i, d, v, w
    return found, best, best_v, best_w


@njit(
    "void(f4[:,::1], f8[:,::1], i8[::1], f8[:,::1], i8[::1], f8, i8[::1], f8[:,::1], f8[:,::1], f8[::1])",
    cache=True,
    nogil=True,
    fastmath=_FAST,
)
def _query(nodes, triangles, index, points, order, limit_sq, face, barycentric, point, distance):
    codes = nodes.view(np.int32)
    stack, stack_distance = np.empty(STACK_SIZE, np.int32), np.empty(STACK_SIZE, np.float32)
    seed = 0
    for i in order:
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        # The neighbour's answer bounds this one.
        found, d, v, w = _nearest(nodes, codes, triangles, px, py, pz, seed, limit_sq, stack, stack_distance)
        if found < 0:
            face[i], distance[i] = -1, np.inf
            barycentric[i, :] = 0.0
            point[i, :] = np.nan
            continue
        seed = found
        face[i], distance[i] = index[found], np.sqrt(d)
        barycentric[i, 0], barycentric[i, 1], barycentric[i, 2] = 1.0 - v - w, v, w
        for k in range(3):
            point[i, k] = triangles[found, k] + v * triangles[found, 3 + k] + w * triangles[found, 6 + k]
