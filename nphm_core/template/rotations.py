"""Rotation vectors and matrices, small batches, without scipy's start-up time.

A rotation vector is axis times angle in radians. Right perturbation: R(r) exp([d]x), with d in the rotated frame.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def cross_matrices(vectors: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3 3"]:
    """Give the matrices [v]x with [v]x w = v x w."""
    out = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    out[:, 0, 1], out[:, 0, 2] = -z, y
    out[:, 1, 0], out[:, 1, 2] = z, -x
    out[:, 2, 0], out[:, 2, 1] = -y, x
    return out


def rotation_matrices(rotvecs: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3 3"]:
    """Give the matrices of rotation vectors (Rodrigues)."""
    angle = np.linalg.norm(rotvecs, axis=1)
    sine = np.sinc(angle / np.pi)
    # (1 - cos a) / a^2 written with sinc stays exact at small angles.
    cosine = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    cross = cross_matrices(rotvecs)
    return np.eye(3) + sine[:, None, None] * cross + cosine[:, None, None] * (cross @ cross)


def rotation_vector(matrix: Float[ndarray, "3 3"]) -> Float[ndarray, " 3"]:
    """Give the rotation vector of a rotation matrix; its length is at most pi."""
    # Largest of four quaternion components first: stable at every angle (Shepperd 1978).
    m = matrix
    trace = np.trace(m)
    squares = np.array([1 + trace, *(1 - trace + 2 * np.diag(m))])
    k = int(np.argmax(squares))
    w_row = [squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]
    x_row = [w_row[1], squares[1], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]]
    y_row = [w_row[2], x_row[2], squares[2], m[2, 1] + m[1, 2]]
    z_row = [w_row[3], x_row[3], y_row[3], squares[3]]
    quaternion = np.array((w_row, x_row, y_row, z_row)[k])
    quaternion *= np.where(quaternion[0] < 0, -1.0, 1.0) / np.linalg.norm(quaternion)
    sine = np.linalg.norm(quaternion[1:])
    angle = 2 * np.arctan2(sine, quaternion[0])
    return quaternion[1:] * (angle / sine if sine > 1e-12 else 2.0)


def perturbed(rotvec: Float[ndarray, " 3"], step: Float[ndarray, " 3"]) -> Float[ndarray, " 3"]:
    """Give the rotation vector of R(rotvec) exp([step]x)."""
    first, second = rotation_matrices(np.stack([rotvec, step]))
    return rotation_vector(first @ second)
