"""One level of the template's hierarchy in the as-rigid-as-possible registration: its rest pose and one outer step."""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.laplacian import corner_cotangents, edge_weights, neighbourhood
from nphm_core.registration.arap_solver import (
    add_data_term,
    add_vertex_normals,
    fit_rotations,
    rigid_energy,
    rigid_right_hand_side,
    solve_conjugate_gradients,
)
from nphm_core.registration.correspondences import Correspondences

_ROTATION_STEPS = 4
_TOLERANCE = 1e-2
_MAX_STEPS = 60


class RigidLevel:
    """Rest pose, weights and rotations of one level."""

    def __init__(self, rest: Float[ndarray, "n 3"], faces: Int[ndarray, "n_faces 3"]) -> None:
        """Prepare the rigidity term; every vertex starts unrotated."""
        self.rest = np.ascontiguousarray(rest, float)
        self.faces = np.ascontiguousarray(faces, np.int64)
        self.around = neighbourhood(self.faces, len(rest))
        self._cotangents = corner_cotangents(self.rest, self.faces)
        self._rotations = np.tile(np.eye(3).ravel(), (len(rest), 1))

    def stiffen(self, faces: Bool[ndarray, " n_faces"], factor: float) -> None:
        """Multiply the rigidity of some faces, and turn the vertices at them back to how they were at rest.

        A rotation that was fitted to a fold would keep the fold.
        """
        self._cotangents = np.where(faces[:, None], factor, 1.0) * self._cotangents
        self._rotations[self.faces[faces].ravel()] = np.eye(3).ravel()

    def normals(self, vertices: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Give area-weighted unit vertex normals."""
        out = np.empty_like(vertices)
        add_vertex_normals(vertices, self.faces, out)
        return out

    def solve(
        self,
        vertices: Float[ndarray, "n 3"],
        data: Correspondences,
        stiffness: float,
        *,
        refit: bool = True,
        tolerance: float = _TOLERANCE,
        max_steps: int = _MAX_STEPS,
    ) -> tuple[Float[ndarray, "n 3"], int]:
        """Refit the rotations to `vertices`, then give the positions of least energy and the solver's steps."""
        if refit:
            fit_rotations(self.rest, vertices, self.faces, self._cotangents, self._rotations, _ROTATION_STEPS)
        cotangents = stiffness * self._cotangents
        right, blocks = np.empty_like(self.rest), np.empty((len(self.rest), 6))
        rigid_right_hand_side(self.rest, self.faces, cotangents, self._rotations, right)
        add_data_term(
            data.points, data.normals, data.weights, data.point_weights, self.rest, data.rest_weights, blocks, right
        )
        out = np.array(vertices)
        n_steps = solve_conjugate_gradients(
            self.around.offsets, self.around.neighbours, edge_weights(cotangents, self.around), blocks, right, out,
            tolerance, max_steps,
        )  # fmt: skip
        return out, n_steps

    def energies(self, vertices: Float[ndarray, "n 3"], data: Correspondences, stiffness: float) -> tuple[float, float]:
        """Give the rigidity term and the data term, each with its weights, mm^2."""
        rigid = stiffness * rigid_energy(self.rest, vertices, self.faces, self._cotangents, self._rotations)
        offset = vertices - data.points
        along = (offset * data.normals).sum(1)
        held = data.rest_weights @ ((vertices - self.rest) ** 2).sum(1)
        return float(rigid), float(data.weights @ along**2 + data.point_weights @ (offset**2).sum(1) + held)
