"""A small head whose linear model is known: an egg with a nose, bent by smooth modes."""

import numpy as np

from nphm_core.geometry.subdivision import subdivided_faces, subdivision_hierarchy
from nphm_core.models.linear_head import LinearHead

N_IDENTITY, N_EXPRESSION = 5, 3


def small_head(levels: int = 4) -> LinearHead:
    """Make the head; its modes move the surface by 3 mm (0.012 canonical units) each."""
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    steps = subdivision_hierarchy(faces, 6, levels, scheme="midpoint")
    for step in steps:
        vertices = step.matrix @ vertices
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    faces = subdivided_faces(steps, faces)[0]
    x, y, z = vertices.T
    nose = np.exp(-((x**2 + (y - 0.1) ** 2) / 0.02)) * (z > 0)
    brow = np.exp(-(((np.abs(x) - 0.35) ** 2 + (y - 0.45) ** 2) / 0.03)) * (z > 0)
    mean = vertices * [0.32, 0.45, 0.4] + np.stack([0 * x, 0 * x, 0.2 * nose + 0.06 * brow], axis=1)
    modes = np.stack([
        vertices * (0.5 + y)[:, None],
        vertices * np.cos(3 * x + y)[:, None],
        vertices * np.sin(4 * y + 1)[:, None],
        vertices * np.cos(4 * z - 2 * x)[:, None],
        vertices * np.sin(5 * x * y + z)[:, None],
        vertices * (np.exp(-((y + 0.5) ** 2 + x**2) / 0.1) * (z > 0))[:, None],
        vertices * (np.exp(-((y + 0.3) ** 2 + (x - 0.3) ** 2) / 0.1) * (z > 0))[:, None],
        vertices * (np.exp(-((y - 0.5) ** 2 + (x + 0.2) ** 2) / 0.1) * (z > 0))[:, None],
    ])  # fmt: skip
    basis = np.moveaxis(0.012 * modes, 0, 2).astype(np.float32)
    return LinearHead(
        mean=mean.astype(np.float32),
        identity_basis=basis[..., :N_IDENTITY],
        expression_basis=basis[..., N_IDENTITY:],
        expression_mean=np.array([0.5, 0.0, 0.0], np.float32),
        faces=faces,
        # The tip of the nose first.
        anchors=np.concatenate([[np.argmax(mean[:, 2])], np.linspace(0, len(mean) - 1, 38).astype(int)]),
        visible=np.ones(len(mean), bool),
        template_hash="0" * 64,
    )
