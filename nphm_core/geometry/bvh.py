"""A tree of boxes over triangles or points, and the curve order that makes queries on it fast.

Kernels are compiled once and kept beside this file; every stage is its own process, so each has one signature only.
Positions are relative to `Tree.centre`, so that the boxes lose nothing in single precision wherever the mesh lies.
Binned surface-area heuristic: Wald, On fast construction of SAH-based bounding volume hierarchies, 2007.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Int64
from numba import njit
from numpy import ndarray

LEAF_SIZE = 4
N_BINS = 16
STACK_SIZE = 96
# Below this depth, splits halve the count: depth stays under STACK_SIZE whatever the geometry.
_DEPTH_OF_BALANCE = 48
# Wider than single-precision rounding of a coordinate relative to the mesh's largest one.
_BOX_MARGIN = 2.5e-7
_HUGE = np.float32(1e18)


@dataclass(frozen=True)
class Tree:
    """Boxes over primitives; a mesh without faces has one primitive a vertex."""

    nodes: Float32[ndarray, "n_nodes 16"]
    """Both children's boxes (lower, upper corner; lower, upper corner), then two child codes as int32 bits.

    A code >= 0 is a node; otherwise -1 - code is 8 * first primitive + number of primitives.
    """
    triangles: Float[ndarray, "n_primitives 9"]
    """Corner a relative to the centre, then b - a and c - a, in tree order; a point has both edges zero."""
    index: Int64[ndarray, " n_primitives"]
    """The face (or vertex) that each primitive is."""
    centre: Float[ndarray, " 3"]
    """Origin of all positions in the tree."""


def build_tree(vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]) -> Tree:
    """Build the tree over the faces, or over the vertices where there are no faces.

    Nothing to build on, positions that are not finite, or faces beyond the vertices raise ValueError.
    """
    vertices = checked_positions(vertices, "vertices")
    if len(vertices) == 0:
        raise ValueError("no vertices: a search needs at least one")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"faces name vertices {faces.min()} to {faces.max()}; there are {len(vertices)}")
    lower, upper = vertices.min(axis=0), vertices.max(axis=0)
    centre = 0.5 * (lower + upper)
    margin = _BOX_MARGIN * float((upper - lower).max())
    faces = np.ascontiguousarray(faces, np.int64).reshape(-1, 3)
    triangles, boxes = _primitives(vertices, faces, centre, margin)
    nodes, order = _split(boxes)
    return Tree(nodes, triangles[order], order, centre)


def checked_positions(points: Float[ndarray, "n 3"], name: str) -> Float[ndarray, "n 3"]:
    """Give contiguous double positions; a wrong shape or values that are not finite raise ValueError."""
    out = np.ascontiguousarray(points, np.float64)
    if out.ndim != 2 or out.shape[1] != 3:
        raise ValueError(f"{name} have shape {out.shape}; expected (n, 3)")
    if not np.isfinite(out).all():
        bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
        raise ValueError(f"{len(bad)} of {len(out)} {name} are not finite (first: {bad[0]}); remove them before")
    return out


@njit("Tuple((f8[:,::1], f4[:,::1]))(f8[:,::1], i8[:,::1], f8[::1], f8)", cache=True, nogil=True)
def _primitives(vertices, faces, centre, margin):
    # Each box row: lower, upper, then the primitive's number as int32 bits, then padding to 32 bytes.
    n = len(faces) if len(faces) > 0 else len(vertices)
    triangles = np.zeros((n, 9))
    boxes = np.zeros((n, 8), np.float32)
    numbers = boxes.view(np.int32)
    for i in range(n):
        a = faces[i, 0] if len(faces) > 0 else i
        b = faces[i, 1] if len(faces) > 0 else i
        c = faces[i, 2] if len(faces) > 0 else i
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            triangles[i, k] = x - centre[k]
            triangles[i, 3 + k] = y - x
            triangles[i, 6 + k] = z - x
            boxes[i, k] = min(x, y, z) - centre[k] - margin
            boxes[i, 3 + k] = max(x, y, z) - centre[k] + margin
        numbers[i, 6] = i
    return triangles, boxes


@njit(cache=True, nogil=True)
def _bounds(boxes, start, end, box, middle):
    # Box over primitives, and box over their middles (doubled: only ratios count).
    box[:3] = _HUGE
    box[3:] = -_HUGE
    middle[:3] = _HUGE
    middle[3:] = -_HUGE
    for i in range(start, end):
        for k in range(3):
            lower, upper = boxes[i, k], boxes[i, 3 + k]
            m = lower + upper
            box[k] = min(box[k], lower)
            box[3 + k] = max(box[3 + k], upper)
            middle[k] = min(middle[k], m)
            middle[3 + k] = max(middle[3 + k], m)


@njit(cache=True, nogil=True)
def _half_area(box):
    x, y, z = box[3] - box[0], box[4] - box[1], box[5] - box[2]
    return x * y + y * z + z * x


@njit(cache=True, nogil=True)
def _best_bin(boxes, start, end, axis, low, scale, count, bins, right_cost):
    # The last bin of the left side with the least expected cost; -1 if all are in one bin.
    count[:] = 0
    bins[:, :3] = _HUGE
    bins[:, 3:] = -_HUGE
    for i in range(start, end):
        b = min(int((boxes[i, axis] + boxes[i, 3 + axis] - low) * scale), N_BINS - 1)
        count[b] += 1
        for k in range(3):
            bins[b, k] = min(bins[b, k], boxes[i, k])
            bins[b, 3 + k] = max(bins[b, 3 + k], boxes[i, 3 + k])
    side = np.empty(6, np.float32)
    side[:3] = _HUGE
    side[3:] = -_HUGE
    n = 0
    for b in range(N_BINS - 1, 0, -1):
        n += count[b]
        for k in range(3):
            side[k] = min(side[k], bins[b, k])
            side[3 + k] = max(side[3 + k], bins[b, 3 + k])
        right_cost[b - 1] = _half_area(side) * n if n > 0 else np.float32(-1)
    side[:3] = _HUGE
    side[3:] = -_HUGE
    n = 0
    best, best_cost = -1, np.float32(np.inf)
    for b in range(N_BINS - 1):
        n += count[b]
        for k in range(3):
            side[k] = min(side[k], bins[b, k])
            side[3 + k] = max(side[3 + k], bins[b, 3 + k])
        if n > 0 and right_cost[b] >= 0:
            cost = _half_area(side) * n + right_cost[b]
            if cost < best_cost:
                best, best_cost = b, cost
    return best


@njit(cache=True, nogil=True)
def _swap(boxes, i, j):
    for k in range(7):
        boxes[i, k], boxes[j, k] = boxes[j, k], boxes[i, k]


@njit(cache=True, nogil=True)
def _partition(boxes, start, end, axis, low, scale, last_bin):
    i, j = start, end - 1
    while True:
        while i <= j and int((boxes[i, axis] + boxes[i, 3 + axis] - low) * scale) <= last_bin:
            i += 1
        while i <= j and int((boxes[j, axis] + boxes[j, 3 + axis] - low) * scale) > last_bin:
            j -= 1
        if i >= j:
            return i
        _swap(boxes, i, j)


@njit(cache=True, nogil=True)
def _cut(boxes, start, end, middle, balanced, count, bins, right_cost):
    # Reorders the range and gives where its right side starts; both sides have something.
    axis = 0
    for k in range(1, 3):
        if middle[3 + k] - middle[k] > middle[3 + axis] - middle[axis]:
            axis = k
    extent = middle[3 + axis] - middle[axis]
    if extent > 0 and not balanced:
        low, scale = middle[axis], np.float32(N_BINS * 0.999) / extent
        last = _best_bin(boxes, start, end, axis, low, scale, count, bins, right_cost)
        if last >= 0:
            cut = _partition(boxes, start, end, axis, low, scale, last)
            if start < cut < end:
                return cut
    return (start + end) // 2


@njit("Tuple((f4[:,::1], i8[::1]))(f4[:,::1])", cache=True, nogil=True)
def _split(boxes):
    n = len(boxes)
    nodes = np.zeros((max(n, 1), 16), np.float32)
    codes = nodes.view(np.int32)
    stack = np.empty((STACK_SIZE, 5), np.int64)
    box, middle = np.empty(6, np.float32), np.empty(6, np.float32)
    count, bins, right_cost = (
        np.empty(N_BINS, np.int64),
        np.empty((N_BINS, 6), np.float32),
        np.empty(N_BINS, np.float32),
    )
    n_nodes, top = 1, 1
    # The root is node 0. A mesh of one leaf has it on the left and nothing on the right.
    _bounds(boxes, 0, n, box, middle)
    cut = n if n <= LEAF_SIZE else _cut(boxes, 0, n, middle, False, count, bins, right_cost)
    stack[0, :] = cut, n, 0, 1, 1
    stack[1, :] = 0, cut, 0, 0, 1
    while top >= 0:
        start, end, parent, side, depth = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3], stack[top, 4]
        top -= 1
        _bounds(boxes, start, end, box, middle)
        nodes[parent, 6 * side : 6 * side + 6] = box
        if end - start <= LEAF_SIZE:
            codes[parent, 12 + side] = -1 - (8 * start + end - start)
            continue
        node = n_nodes
        n_nodes += 1
        codes[parent, 12 + side] = node
        cut = _cut(boxes, start, end, middle, depth >= _DEPTH_OF_BALANCE, count, bins, right_cost)
        stack[top + 1, :] = cut, end, node, 1, depth + 1
        stack[top + 2, :] = start, cut, node, 0, depth + 1
        top += 2
    order = np.empty(n, np.int64)
    numbers = boxes.view(np.int32)
    for i in range(n):
        order[i] = numbers[i, 6]
    return nodes[:n_nodes].copy(), order


@njit(cache=True, nogil=True)
def _spread(x):
    # Two zero bits after each of the ten lowest bits.
    x = (x | (x << 16)) & 0x030000FF
    x = (x | (x << 8)) & 0x0300F00F
    x = (x | (x << 4)) & 0x030C30C3
    return (x | (x << 2)) & 0x09249249


@njit("i8[::1](f8[:,::1])", cache=True, nogil=True)
def morton_order(points):
    """Give the order of points along a Morton curve; stable, so that equal input gives equal output."""
    n = len(points)
    key, key_to = np.empty(n, np.int64), np.empty(n, np.int64)
    order, order_to = np.arange(n), np.empty(n, np.int64)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(n):
        for k in range(3):
            low[k] = min(low[k], points[i, k])
            high[k] = max(high[k], points[i, k])
    scale = 1023.999 / max(high[0] - low[0], high[1] - low[1], high[2] - low[2], 1e-300)
    for i in range(n):
        x, y, z = points[i, 0] - low[0], points[i, 1] - low[1], points[i, 2] - low[2]
        key[i] = _spread(int(x * scale)) | (_spread(int(y * scale)) << 1) | (_spread(int(z * scale)) << 2)
    count = np.empty(1025, np.int64)
    for shift in (0, 10, 20):
        count[:] = 0
        for i in range(n):
            count[((key[i] >> shift) & 1023) + 1] += 1
        for b in range(1024):
            count[b + 1] += count[b]
        for i in range(n):
            b = (key[i] >> shift) & 1023
            key_to[count[b]], order_to[count[b]] = key[i], order[i]
            count[b] += 1
        key, key_to, order, order_to = key_to, key, order_to, order
    return order
