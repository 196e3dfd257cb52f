"""Triangles of one mesh that pass through each other.

Only true crossings count: triangles that touch, or overlap within one plane, or share an edge, do not. Triangles
that share one vertex count if they cross beyond it.
"""

import numpy as np
from jaxtyping import Float, Int64
from numba import njit
from numpy import ndarray

from nphm_core.geometry.bvh import build_tree

# Distances below this, relative to the pair's size, count as touching.
_TOUCHING = 1e-10
_FAST = {"nnan", "nsz", "contract"}


def self_intersections(
    vertices: Float[ndarray, "n_vertices 3"], faces: Int64[ndarray, "n_faces 3"]
) -> Int64[ndarray, "n_pairs 2"]:
    """Give the pairs of faces that cross, each once, smaller index first, in ascending order."""
    if len(faces) == 0:
        return np.zeros((0, 2), np.int64)
    tree = build_tree(vertices, faces)
    corners = np.ascontiguousarray(faces, np.int64)[tree.index]
    pairs = np.sort(tree.index[_crossing_pairs(tree.nodes, tree.triangles, corners)], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _boxes_meet(nodes, a, b):
    # A reference to a box is 2 * parent + side.
    i, j = a >> 1, b >> 1
    p, q = 6 * (a & 1), 6 * (b & 1)
    meet = True
    for k in range(3):
        meet &= nodes[i, p + k] <= nodes[j, q + 3 + k] and nodes[j, q + k] <= nodes[i, p + 3 + k]
    return meet


@njit(cache=True, nogil=True, fastmath=_FAST)
def _cross(u, v, out):
    out[0] = u[1] * v[2] - u[2] * v[1]
    out[1] = u[2] * v[0] - u[0] * v[2]
    out[2] = u[0] * v[1] - u[1] * v[0]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _sides(a, b, normal, side):
    # Heights of b's corners over the plane of a; 0 for touching. True if they are on both sides.
    ux, uy, uz = a[1, 0] - a[0, 0], a[1, 1] - a[0, 1], a[1, 2] - a[0, 2]
    vx, vy, vz = a[2, 0] - a[0, 0], a[2, 1] - a[0, 1], a[2, 2] - a[0, 2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    normal[0], normal[1], normal[2] = nx, ny, nz
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    above, below = False, False
    for k in range(3):
        x, y, z = b[k, 0] - a[0, 0], b[k, 1] - a[0, 1], b[k, 2] - a[0, 2]
        h = nx * x + ny * y + nz * z
        if abs(h) <= _TOUCHING * length * (abs(x) + abs(y) + abs(z)):
            h = 0.0
        side[k] = h
        above |= h > 0.0
        below |= h < 0.0
    return above and below


@njit(cache=True, nogil=True, fastmath=_FAST)
def _pierces(b, side, i, j, a, normal, point):
    # Whether the edge between b's corners i and j passes through the inside of triangle a.
    if side[i] * side[j] >= 0.0:
        return False
    t = side[i] / (side[i] - side[j])
    for k in range(3):
        point[k] = b[i, k] + t * (b[j, k] - b[i, k])
    area = normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]
    for m in range(3):
        p, q = m, (m + 1) % 3
        ux, uy, uz = a[q, 0] - a[p, 0], a[q, 1] - a[p, 1], a[q, 2] - a[p, 2]
        vx, vy, vz = point[0] - a[p, 0], point[1] - a[p, 1], point[2] - a[p, 2]
        part = (
            normal[0] * (uy * vz - uz * vy) + normal[1] * (uz * vx - ux * vz) + normal[2] * (ux * vy - uy * vx)
        )  # fmt: skip
        if part <= _TOUCHING * area:
            return False
    return True


@njit(cache=True, nogil=True, fastmath=_FAST)
def _triangles_cross(a, b, corners_a, corners_b, work):
    normal_a, normal_b, side_a, side_b, point = work[0], work[1], work[2], work[3], work[4]
    shared, at_a, at_b = 0, 0, 0
    for i in range(3):
        for j in range(3):
            if corners_a[i] == corners_b[j]:
                shared, at_a, at_b = shared + 1, i, j
    if shared > 1:
        return False
    # With a common vertex, two heights decide: its own is exactly zero.
    crosses_a = _sides(a, b, normal_a, side_b)
    if shared == 0 and not crosses_a:
        return False
    crosses_b = _sides(b, a, normal_b, side_a)
    if shared == 0 and not crosses_b:
        return False
    if shared == 1:
        return _pierces(b, side_b, (at_b + 1) % 3, (at_b + 2) % 3, a, normal_a, point) or _pierces(
            a, side_a, (at_a + 1) % 3, (at_a + 2) % 3, b, normal_b, point
        )
    for k in range(3):
        if _pierces(b, side_b, k, (k + 1) % 3, a, normal_a, point):
            return True
        if _pierces(a, side_a, k, (k + 1) % 3, b, normal_b, point):
            return True
    return False


@njit(cache=True, nogil=True)
def _load(triangles, i, out, box):
    for k in range(3):
        a = triangles[i, k]
        b, c = a + triangles[i, 3 + k], a + triangles[i, 6 + k]
        out[0, k], out[1, k], out[2, k] = a, b, c
        box[0, k], box[1, k] = min(a, b, c), max(a, b, c)


@njit(cache=True, nogil=True)
def _apart(p, q):
    apart = False
    for k in range(3):
        apart |= p[0, k] > q[1, k] or q[0, k] > p[1, k]
    return apart


@njit(cache=True, nogil=True)
def _cross_in_leaves(leaf_a, leaf_b, triangles, corners, place, found, n_found):
    # Appends the crossing pairs of two leaves, or of one with itself, and gives the list, which may have grown.
    a, b, box_a, box_b, work = place[0:3], place[3:6], place[6:8], place[8:10], place[10:15]
    for i in range(leaf_a >> 3, (leaf_a >> 3) + (leaf_a & 7)):
        _load(triangles, i, a, box_a)
        for j in range(i + 1 if leaf_a == leaf_b else leaf_b >> 3, (leaf_b >> 3) + (leaf_b & 7)):
            _load(triangles, j, b, box_b)
            if _apart(box_a, box_b) or not _triangles_cross(a, b, corners[i], corners[j], work):
                continue
            if n_found == len(found):
                grown = np.empty((2 * n_found, 2), np.int64)
                grown[:n_found] = found
                found = grown
            found[n_found, 0], found[n_found, 1] = i, j
            n_found += 1
    return found, n_found


@njit("i8[:,::1](f4[:,::1], f8[:,::1], i8[:,::1])", cache=True, nogil=True)
def _crossing_pairs(nodes, triangles, corners):
    codes = nodes.view(np.int32)
    found, n_found = np.empty((64, 2), np.int64), 0
    stack, place = np.empty((1024, 2), np.int64), np.empty((15, 3))
    # Both sides of the root, each with itself, and one with the other.
    stack[0], stack[1], stack[2] = (0, 0), (1, 1), (0, 1)
    top = 2
    while top >= 0:
        r, s = stack[top, 0], stack[top, 1]
        top -= 1
        code_r, code_s = codes[r >> 1, 12 + (r & 1)], codes[s >> 1, 12 + (s & 1)]
        if r != s and not _boxes_meet(nodes, r, s):
            continue
        if code_r < 0 and code_s < 0:
            found, n_found = _cross_in_leaves(-1 - code_r, -1 - code_s, triangles, corners, place, found, n_found)
        elif r == s:
            left = 2 * code_r
            stack[top + 1], stack[top + 2], stack[top + 3] = (left, left), (left + 1, left + 1), (left, left + 1)
            top += 3
        elif code_s < 0 or (code_r >= 0 and code_r < code_s):
            # Nodes nearer the root have smaller numbers: the larger box is opened.
            stack[top + 1], stack[top + 2] = (2 * code_r, s), (2 * code_r + 1, s)
            top += 2
        else:
            stack[top + 1], stack[top + 2] = (r, 2 * code_s), (r, 2 * code_s + 1)
            top += 2
    return found[:n_found].copy()
