"""Loops of the as-rigid-as-possible registration: rotations, right-hand side, data term, conjugate gradients.

The energy is rigidity + data. Rigidity sums, over each vertex and the edges of all triangles at it ("spokes and
rims", Chao et al. 2010), cotangent-weighted squared differences between the edge and the rotated rest edge. Data is a
weighted squared distance to a plane, with a small share of the distance to the point. Both are quadratic in positions
once rotations, planes and weights are fixed; that system is solved without a matrix, by conjugate gradients with the
3x3 blocks of the diagonal as preconditioner (Saad 2003, section 9.2). Positions in mm; arrays C-ordered float64.
"""

import numpy as np
from numba import njit

# Not "reassoc": sums would be vectorised only where arrays do not lie close in memory, and results differ between runs.
_FAST = {"nnan", "nsz", "contract", "arcp"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def add_vertex_normals(vertices, faces, normals):
    """Write area-weighted unit normals into `normals`."""
    normals[:] = 0.0
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in range(3):
            i = faces[f, k]
            normals[i, 0] += x
            normals[i, 1] += y
            normals[i, 2] += z
    for i in range(len(normals)):
        length = np.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2)
        if length > 0.0:
            normals[i, 0] /= length
            normals[i, 1] /= length
            normals[i, 2] /= length


@njit(cache=True, nogil=True, fastmath=_FAST)
def _covariances(rest, vertices, faces, cotangents, out):
    out[:] = 0.0
    s = np.empty(9)
    for f in range(len(faces)):
        s[:] = 0.0
        for k in range(3):
            i, j, c = faces[f, k], faces[f, (k + 1) % 3], cotangents[f, (k + 2) % 3]
            rx, ry, rz = rest[j, 0] - rest[i, 0], rest[j, 1] - rest[i, 1], rest[j, 2] - rest[i, 2]
            for d in range(3):
                e = c * (vertices[j, d] - vertices[i, d])
                s[3 * d] += e * rx
                s[3 * d + 1] += e * ry
                s[3 * d + 2] += e * rz
        for k in range(3):
            i = faces[f, k]
            for d in range(9):
                out[i, d] += s[d]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _turn(r, x, y, z):
    # Rotate the matrix r (9 numbers) by the rotation vector (x, y, z), Rodrigues' formula.
    angle_sq = x * x + y * y + z * z
    angle = np.sqrt(angle_sq)
    if angle < 1e-12:
        return
    s, c = np.sin(angle) / angle, (1.0 - np.cos(angle)) / angle_sq
    for k in range(3):
        a, b, d = r[k], r[3 + k], r[6 + k]
        # w = omega x column, u = omega x w
        wx, wy, wz = y * d - z * b, z * a - x * d, x * b - y * a
        r[k] = a + s * wx + c * (y * wz - z * wy)
        r[3 + k] = b + s * wy + c * (z * wx - x * wz)
        r[6 + k] = d + s * wz + c * (x * wy - y * wx)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _newton_step(r, s):
    # The rotation vector that brings r towards the best rotation for the covariance s: with M = s r^T, the gradient
    # is the axis of M's antisymmetric part, the Hessian tr(M) I - sym(M).
    m = np.empty((3, 3))
    for a in range(3):
        for b in range(3):
            m[a, b] = s[3 * a] * r[3 * b] + s[3 * a + 1] * r[3 * b + 1] + s[3 * a + 2] * r[3 * b + 2]
    gx, gy, gz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    trace = abs(m[0, 0]) + abs(m[1, 1]) + abs(m[2, 2]) + 1e-12
    a, b, c = m[1, 1] + m[2, 2], -0.5 * (m[0, 1] + m[1, 0]), -0.5 * (m[0, 2] + m[2, 0])
    d, e, f = m[0, 0] + m[2, 2], -0.5 * (m[1, 2] + m[2, 1]), m[0, 0] + m[1, 1]
    xx, xy, xz = d * f - e * e, c * e - b * f, b * e - c * d
    det = a * xx + b * xy + c * xz
    if a > 0.0 and a * d > b * b and det > 1e-6 * trace**3:
        yy, yz, zz = a * f - c * c, b * c - a * e, a * d - b * b
        x, y, z = xx * gx + xy * gy + xz * gz, xy * gx + yy * gy + yz * gz, xz * gx + yz * gy + zz * gz
        x, y, z = x / det, y / det, z / det
        if x * x + y * y + z * z < 1.0:
            return x, y, z
    return gx / trace, gy / trace, gz / trace


@njit(cache=True, nogil=True, fastmath=_FAST)
def fit_rotations(rest, vertices, faces, cotangents, rotations, n_steps):
    """Improve each vertex's rotation (9 numbers a row) from rest edges to edges.

    Newton's method on the rotation, which never gives a reflection; two or three steps suffice from a good start.
    """
    covariance = np.empty((len(rest), 9))
    _covariances(rest, vertices, faces, cotangents, covariance)
    for i in range(len(rest)):
        for _ in range(n_steps):
            x, y, z = _newton_step(rotations[i], covariance[i])
            _turn(rotations[i], x, y, z)
            if x * x + y * y + z * z < 1e-6:
                break


@njit(cache=True, nogil=True, fastmath=_FAST)
def rigid_right_hand_side(rest, faces, cotangents, rotations, out):
    """Write the rigidity term's right-hand side: sums of rotated, weighted rest edges."""
    out[:] = 0.0
    m = np.empty(9)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for d in range(9):
            m[d] = (rotations[a, d] + rotations[b, d] + rotations[c, d]) / 3.0
        for k in range(3):
            i, j, w = faces[f, k], faces[f, (k + 1) % 3], cotangents[f, (k + 2) % 3]
            rx, ry, rz = rest[j, 0] - rest[i, 0], rest[j, 1] - rest[i, 1], rest[j, 2] - rest[i, 2]
            for d in range(3):
                e = w * (m[3 * d] * rx + m[3 * d + 1] * ry + m[3 * d + 2] * rz)
                out[j, d] += e
                out[i, d] -= e


@njit(cache=True, nogil=True, fastmath=_FAST)
def add_data_term(points, normals, weights, point_weights, rest, rest_weights, blocks, right):
    """Write the 3x3 blocks (xx xy xz yy yz zz) of the terms that hold single vertices; add their right-hand side."""
    for i in range(len(points)):
        w, h = weights[i], rest_weights[i]
        p = point_weights[i] + h
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        blocks[i, 0], blocks[i, 1], blocks[i, 2] = w * x * x + p, w * x * y, w * x * z
        blocks[i, 3], blocks[i, 4], blocks[i, 5] = w * y * y + p, w * y * z, w * z * z + p
        if w > 0.0 or p > 0.0:
            p = point_weights[i]
            qx, qy, qz = points[i, 0], points[i, 1], points[i, 2]
            offset = w * (x * qx + y * qy + z * qz)
            right[i, 0] += offset * x + p * qx + h * rest[i, 0]
            right[i, 1] += offset * y + p * qy + h * rest[i, 1]
            right[i, 2] += offset * z + p * qz + h * rest[i, 2]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _multiply(offsets, neighbours, weights, diagonal, blocks, x, out):
    # out = A x; gives x . out
    total = 0.0
    for i in range(len(x)):
        w = diagonal[i]
        px, py, pz = x[i, 0], x[i, 1], x[i, 2]
        sx, sy, sz = w * px, w * py, w * pz
        for e in range(offsets[i], offsets[i + 1]):
            j, w = neighbours[e], weights[e]
            sx -= w * x[j, 0]
            sy -= w * x[j, 1]
            sz -= w * x[j, 2]
        sx += blocks[i, 0] * px + blocks[i, 1] * py + blocks[i, 2] * pz
        sy += blocks[i, 1] * px + blocks[i, 3] * py + blocks[i, 4] * pz
        sz += blocks[i, 2] * px + blocks[i, 4] * py + blocks[i, 5] * pz
        out[i, 0], out[i, 1], out[i, 2] = sx, sy, sz
        total += px * sx + py * sy + pz * sz
    return total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _inverse_blocks(diagonal, blocks, out):
    for i in range(len(blocks)):
        a, b, c = blocks[i, 0] + diagonal[i], blocks[i, 1], blocks[i, 2]
        d, e, f = blocks[i, 3] + diagonal[i], blocks[i, 4], blocks[i, 5] + diagonal[i]
        xx, xy, xz = d * f - e * e, c * e - b * f, b * e - c * d
        det = a * xx + b * xy + c * xz
        scale = 1.0 / det if det > 0.0 else 0.0
        out[i, 0], out[i, 1], out[i, 2] = xx * scale, xy * scale, xz * scale
        out[i, 3], out[i, 4], out[i, 5] = (a * f - c * c) * scale, (b * c - a * e) * scale, (a * d - b * b) * scale


@njit(cache=True, nogil=True, fastmath=_FAST)
def _precondition(inverse, r, z):
    # z = M r; gives r . z
    total = 0.0
    for i in range(len(r)):
        x, y, w = r[i, 0], r[i, 1], r[i, 2]
        z[i, 0] = inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] * w
        z[i, 1] = inverse[i, 1] * x + inverse[i, 3] * y + inverse[i, 4] * w
        z[i, 2] = inverse[i, 2] * x + inverse[i, 4] * y + inverse[i, 5] * w
        total += x * z[i, 0] + y * z[i, 1] + w * z[i, 2]
    return total


@njit(cache=True, nogil=True, fastmath=_FAST)
def solve_conjugate_gradients(offsets, neighbours, weights, blocks, right, x, tolerance, max_steps):
    """Solve (Laplacian + blocks) x = right in place from the start in `x`; give the number of steps.

    Stops when the preconditioned residual has shrunk to `tolerance` times its start. A vertex without neighbours and
    data stays where it is.
    """
    n = len(x)
    diagonal = np.zeros(n)
    for i in range(n):
        for e in range(offsets[i], offsets[i + 1]):
            diagonal[i] += weights[e]
    inverse, r, z, p, q = np.empty((n, 6)), np.empty((n, 3)), np.empty((n, 3)), np.empty((n, 3)), np.empty((n, 3))
    _inverse_blocks(diagonal, blocks, inverse)
    _multiply(offsets, neighbours, weights, diagonal, blocks, x, q)
    for i in range(n):
        for d in range(3):
            r[i, d] = right[i, d] - q[i, d]
    energy = _precondition(inverse, r, z)
    goal = energy * tolerance * tolerance
    p[:] = z
    for step in range(max_steps):
        if energy <= goal or energy <= 1e-18:
            return step
        curvature = _multiply(offsets, neighbours, weights, diagonal, blocks, p, q)
        if curvature <= 0.0:
            return step
        alpha = energy / curvature
        for i in range(n):
            for d in range(3):
                x[i, d] += alpha * p[i, d]
                r[i, d] -= alpha * q[i, d]
        previous = energy
        energy = _precondition(inverse, r, z)
        beta = energy / previous
        for i in range(n):
            for d in range(3):
                p[i, d] = z[i, d] + beta * p[i, d]
    return max_steps


@njit(cache=True, nogil=True, fastmath=_FAST)
def rigid_energy(rest, vertices, faces, cotangents, rotations):
    """Give the rigidity term, mm^2 (before its weight)."""
    total = 0.0
    for f in range(len(faces)):
        for k in range(3):
            i, j, w = faces[f, k], faces[f, (k + 1) % 3], cotangents[f, (k + 2) % 3]
            rx, ry, rz = rest[j, 0] - rest[i, 0], rest[j, 1] - rest[i, 1], rest[j, 2] - rest[i, 2]
            for c in range(3):
                v = faces[f, c]
                for d in range(3):
                    e = vertices[j, d] - vertices[i, d]
                    e -= rotations[v, 3 * d] * rx + rotations[v, 3 * d + 1] * ry + rotations[v, 3 * d + 2] * rz
                    total += w * e * e / 3.0
    return total
