"""The energy of the head-model fit: its terms, their correspondences and their normal equations.

Rows are in units of one standard deviation of what they measure, so that the priors weigh one. Left perturbation of
the pose about the face's centre: turns and shifts then hardly interact.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from numpy.random import Generator

from nphm_core.geometry.closest import Closest, ClosestPoints
from nphm_core.geometry.mesh import face_normals, vertex_normals
from nphm_core.registration.scan_surface import ScanSurface, bend_per_mm
from nphm_core.spaces import Similarity
from nphm_core.template.model import Coefficients, HeadModel, ModelSubset
from nphm_core.template.rotations import cross_matrices, rotation_matrices

# Standard deviations. Neighbouring vertices err together: the data counts as so many independent measurements.
_SURFACE_STD_MM = 0.7
_N_INDEPENDENT_SURFACE = 2000
_LANDMARK_STD_MM = 2.0
_LANDMARK_KERNEL_MM = 20.0
_N_INDEPENDENT_LANDMARKS = 60
_POINT_TO_POINT = 0.01
_JOINT_STD_RAD = {"jaw": (0.3, 0.06, 0.06), "neck": (0.25, 0.25, 0.25), "head": (0.25, 0.25, 0.25)}
# Named expressions are blend weights between 0 and 1 and not standard normal.
_NAMED_EXPRESSION_STD = 0.4
_NAMED_EXPRESSION_RANGE = (-0.25, 1.25)
_HAIR_KERNEL_MM = 1.0
# A scan this near to the fitted scalp is looked at; a bald head has the skin's colour in this share of it.
_HAIR_REACH_MM = 30.0
_BALD_SHARE = 0.55
_BALD_DISTANCE_MM = 6.0
# A bald scalp bends 0.1 to 0.61 times as much as the face on the scans we have, hair 0.7 to 1.
_BALD_BEND = 0.65
_LOG_SCALE_STD = 0.04
_MIN_NORMAL_COS = 0.5


@dataclass(frozen=True)
class FitState:
    """Where the fit stands."""

    coefficients: Coefficients
    T_metric_model: Similarity


@dataclass(frozen=True)
class FitStep:
    """How one step looks at the data."""

    kernel_mm: float
    """Scale of the Geman-McClure kernel."""
    gate_mm: float
    """Farther correspondences are rejected."""
    data: float
    """Weight of the vertex-to-scan term; 0 for landmarks only."""
    stiffness: float
    """Factor on the priors."""
    landmark: float
    """Factor on the landmark term."""


@dataclass(frozen=True)
class LandmarkPairs:
    """Landmarks of the template and where the scan has them."""

    corners: Int[ndarray, "n 3"]
    barycentric: Float[ndarray, "n 3"]
    points_mm: Float[ndarray, "n 3"]
    weight: Float[ndarray, " n"]


@dataclass(frozen=True)
class Correspondences:
    """Points of the scan for the vertices of a subset; weight 0 where there is none."""

    point_mm: Float[ndarray, "n 3"]
    normal: Float[ndarray, "n 3"]
    weight: Float[ndarray, " n"]
    distance_mm: Float[ndarray, " n"]


class FitProblem:
    """The energy on a sample of the template's vertices."""

    def __init__(
        self,
        model: HeadModel,
        scan: ScanSurface,
        tree: ClosestPoints,
        landmarks: LandmarkPairs,
        vertex_weight: Float[ndarray, " n_vertices"],
        hair_prone: Bool[ndarray, " n_vertices"],
        *,
        priors: tuple[float, float],
        n_identity: int,
        n_expression: int,
        identity: Float[ndarray, " k"] | None,
        fit_scale: bool,
    ) -> None:
        """Prepare the energy; `priors` weigh identity and expression, `identity` keeps that part fixed."""
        self.model, self.scan, self.tree, self.landmarks = model, scan, tree, landmarks
        self.vertex_weight, self.hair_prone, self.fit_scale = vertex_weight, hair_prone, fit_scale
        self.priors, self.identity = priors, identity
        self.counts = (0 if identity is not None else n_identity, n_expression)
        self.named = len(model.expression_names) > 0
        self.bald = False
        self.start_scale = 1.0

    def look_for_hair(
        self, state: FitState, scalp: Bool[ndarray, " n_vertices"], face: Bool[ndarray, " n_vertices"]
    ) -> None:
        """Decide whether the head is bald: the scan over the scalp has the skin's colour, lies near, and is smooth.

        Call it while the fit rests on the face. Colour alone mistakes hair of the skin's tone, and distance alone a
        large skull for a small one; shape does not tell a bald skull from a smooth cap, so without colour it is no.
        """
        if self.scan.evidence != "colour" or not scalp.any():
            return
        posed = state.T_metric_model.apply(self.model.posed(state.coefficients))
        hit = self.tree.query(posed[scalp], _HAIR_REACH_MM)
        found = hit.face >= 0
        if not found.any():
            return
        like_skin = (self._bare(hit)[found] > 0.8).mean()
        if like_skin > _BALD_SHARE and np.median(hit.distance[found]) < _BALD_DISTANCE_MM:
            on_face = self.tree.query(posed[face], _BALD_DISTANCE_MM)
            bends = [bend_per_mm(self.scan, self._scan_points(side.face)) for side in (hit, on_face)]
            self.bald = bool(bends[0] < _BALD_BEND * bends[1])

    def _scan_points(self, faces: Int[ndarray, " n"]) -> Int[ndarray, " k"]:
        """Give the scan's vertices at closest triangles, or the closest points of a cloud; -1 stands for none."""
        found = np.unique(faces[faces >= 0])
        return np.unique(self.scan.faces[found]) if len(self.scan.faces) else found

    def choose_vertices(self, n_data: int, rng: Generator) -> "FitSample":
        """Choose data vertices at random, by weight, and join the landmarks' corners."""
        usable = np.flatnonzero(self.vertex_weight > 0)
        if len(usable) > n_data:
            usable = np.sort(rng.choice(usable, n_data, replace=False))
        corners, inverse = np.unique(self.landmarks.corners, return_inverse=True)
        subset = self.model.subset(
            np.concatenate([usable, corners]), n_identity=self.counts[0], n_expression=self.counts[1]
        )
        if self.identity is not None:
            shaped = self.model.shapedirs_identity[subset.vertices] @ self.identity.astype(np.float32)
            subset = replace(subset, template=subset.template + shaped)
        weight = self.vertex_weight[usable]
        scale = _N_INDEPENDENT_SURFACE / _SURFACE_STD_MM**2 / weight.sum()
        return FitSample(subset, len(usable), inverse.reshape(-1, 3), weight * scale)

    def correspond(self, state: FitState, sample: "FitSample", step: FitStep) -> Correspondences:
        """Find the scan's points for the sample's data vertices."""
        posed = state.T_metric_model.apply(self.model.posed(state.coefficients))
        normals = vertex_normals(posed, self.model.faces)
        rows = sample.subset.vertices[: sample.n_data]
        found = self.pair_vertices(posed[rows], normals[rows], rows, step.gate_mm)
        # Under hair the scan lies a little to several cm outside of the skull: there only a close scan is believed.
        narrow = self.hair_prone[rows] & (not self.bald)
        scale = np.where(narrow, min(_HAIR_KERNEL_MM, step.kernel_mm), step.kernel_mm)
        kernel = 1 / (1 + (found.distance_mm / scale) ** 2) ** 2
        return replace(found, weight=found.weight * kernel * sample.weight * step.data)

    def pair_vertices(
        self,
        vertices_mm: Float[ndarray, "n 3"],
        normals: Float[ndarray, "n 3"],
        rows: Int[ndarray, " n"],
        gate_mm: float,
    ) -> Correspondences:
        """Pair posed vertices with the scan; weight in [0, 1] by normal, border, distance and hair evidence."""
        scan = self.scan
        hit = self.tree.query(vertices_mm, gate_mm)
        valid = hit.face >= 0
        face = np.maximum(hit.face, 0)
        corner = scan.faces[face] if len(scan.faces) else np.repeat(face[:, None], 3, axis=1)
        bary = hit.barycentric[:, :, None]
        normal = (scan.normals[corner] * bary).sum(1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1), 1e-12)[:, None]
        bare = np.ones(len(rows)) if self.bald else self._bare(hit)
        weight = valid * ((normal * normals).sum(1) > _MIN_NORMAL_COS) * ~scan.border[corner].any(1)
        weight = weight * np.where(self.hair_prone[rows], bare, 1.0)
        point = np.where(valid[:, None], hit.point, vertices_mm)
        return Correspondences(point, normal, weight, np.where(valid, hit.distance, np.inf))

    def normal_equations(
        self, state: FitState, sample: "FitSample", pairs: Correspondences | None, step: FitStep
    ) -> tuple[ndarray, ndarray]:
        """Give the Gauss-Newton matrix and gradient; parameters: turn, shift, log scale, model's."""
        evaluation = self.model.evaluate(state.coefficients, sample.subset)
        pose = state.T_metric_model
        positions = pose.apply(evaluation.positions)
        jacobian = np.matmul(pose.scale * pose.rotation, evaluation.jacobian)
        arm = positions - self.centre(positions, sample)
        rigid = np.zeros((len(positions), 3, 7))
        rigid[:, :, :3] = -cross_matrices(arm)
        rigid[:, :, 3:6] = np.eye(3)
        rigid[:, :, 6] = arm if self.fit_scale else 0.0
        full = np.concatenate([rigid, jacobian], axis=2)
        hessian, gradient = self._prior_equations(state, sample, step)
        for rows, residual, weight in self._rows(full, positions, sample, pairs, step):
            weighted = rows * weight[:, None]
            hessian += weighted.T @ rows
            gradient += weighted.T @ residual
        return hessian, gradient

    def energy(self, state: FitState, sample: "FitSample", pairs: Correspondences | None, step: FitStep) -> float:
        """Give the energy with the correspondences and kernel weights held fixed."""
        evaluation_positions = self._positions(state, sample)
        empty = np.zeros((len(evaluation_positions), 3, 0))
        total = self._prior_energy(state, sample, step)
        for _, residual, weight in self._rows(empty, evaluation_positions, sample, pairs, step, fixed=True):
            total += float(weight @ residual**2)
        return total

    def moved(self, state: FitState, sample: "FitSample", delta: Float[ndarray, " p"]) -> FitState:
        """Apply a step."""
        coefficients = sample.subset.moved(state.coefficients, delta[7:])
        if self.named:
            coefficients = replace(coefficients, expression=np.clip(coefficients.expression, *_NAMED_EXPRESSION_RANGE))
        positions = self._positions(state, sample)
        centre = self.centre(positions, sample)
        turn = rotation_matrices(delta[None, :3])[0]
        grow = float(np.exp(delta[6]))
        change = Similarity(grow, turn, centre + delta[3:6] - grow * turn @ centre)
        return FitState(coefficients, change @ state.T_metric_model)

    def centre(self, positions_mm: Float[ndarray, "n 3"], sample: "FitSample") -> Float[ndarray, " 3"]:
        """Give the point that the pose turns about: the middle of the landmarks' corners."""
        return positions_mm[sample.n_data :].mean(axis=0)

    def landmark_positions(
        self, positions_mm: Float[ndarray, "n 3"], corners: Int[ndarray, "k 3"]
    ) -> Float[ndarray, "k 3"]:
        """Interpolate the template's landmarks."""
        return (positions_mm[corners] * self.landmarks.barycentric[:, :, None]).sum(1)

    def bare_at(self, points_mm: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
        """Give the evidence that the scan is bare next to points."""
        return self._bare(self.tree.query(points_mm))

    def _bare(self, hit: Closest) -> Float[ndarray, " n"]:
        """Look up the evidence at closest points; those without a face give whatever the first face says."""
        face = np.maximum(hit.face, 0)
        corner = self.scan.faces[face] if len(self.scan.faces) else np.repeat(face[:, None], 3, axis=1)
        return (self.scan.bare[corner] * hit.barycentric).sum(axis=1)

    def _positions(self, state: FitState, sample: "FitSample") -> Float[ndarray, "n 3"]:
        return state.T_metric_model.apply(self.model.positions(state.coefficients, sample.subset))

    def _rows(self, full, positions, sample, pairs, step, fixed=False):
        """Yield Jacobian rows, residuals and weights of each term."""
        if pairs is not None:
            data = slice(0, sample.n_data)
            offset = positions[data] - pairs.point_mm
            rows = np.matmul(pairs.normal[:, None, :], full[data])[:, 0]
            yield rows, (offset * pairs.normal).sum(1), pairs.weight
            weight = np.repeat(pairs.weight * _POINT_TO_POINT, 3)
            yield full[data].reshape(offset.size, full.shape[2]), offset.ravel(), weight
        corners = sample.n_data + sample.landmark_corners
        rows = (full[corners] * self.landmarks.barycentric[:, :, None, None]).sum(1)
        offset = self.landmark_positions(positions, corners) - self.landmarks.points_mm
        # The kernel's weight is frozen at the state that was linearised, as for the correspondences.
        if not fixed:
            sample.landmark_kernel = 1 / (1 + (offset**2).sum(1) / _LANDMARK_KERNEL_MM**2) ** 2
        share = _N_INDEPENDENT_LANDMARKS / _LANDMARK_STD_MM**2 / self.landmarks.weight.sum()
        weight = self.landmarks.weight * sample.landmark_kernel * share * step.landmark
        yield rows.reshape(offset.size, full.shape[2]), offset.ravel(), np.repeat(weight, 3)

    def _prior_equations(self, state: FitState, sample: "FitSample", step: FitStep) -> tuple[ndarray, ndarray]:
        precision, value = self._prior(state, sample, step)
        rigid = np.concatenate([np.full(6, 1e-9), [1 / _LOG_SCALE_STD**2]])
        moved = np.concatenate([np.zeros(6), [self._log_scale(state)]])
        return np.diag(np.concatenate([rigid, precision])), np.concatenate([rigid * moved, precision * value])

    def _prior_energy(self, state: FitState, sample: "FitSample", step: FitStep) -> float:
        precision, value = self._prior(state, sample, step)
        return float(precision @ value**2) + (self._log_scale(state) / _LOG_SCALE_STD) ** 2

    def _log_scale(self, state: FitState) -> float:
        """Give the log scale relative to the size that the landmarks gave; heads differ by a few percent."""
        return float(np.log(state.T_metric_model.scale / self.start_scale)) if self.fit_scale else 0.0

    def _prior(self, state: FitState, sample: "FitSample", step: FitStep) -> tuple[ndarray, ndarray]:
        """Give precision and present value of each model parameter."""
        n_id, n_ex = self.counts
        std = _NAMED_EXPRESSION_STD if self.named else 1.0
        precision = [np.full(n_id, self.priors[0]), np.full(n_ex, self.priors[1] / std**2)]
        c = state.coefficients
        value = [c.identity[:n_id], c.expression[:n_ex]]
        for joint in sample.subset.joints:
            std_rad = _JOINT_STD_RAD.get(self.model.joint_names[joint], (0.1, 0.1, 0.1))
            precision.append(1 / np.square(std_rad))
            value.append(c.rotations[joint])
        return step.stiffness * np.concatenate(precision), np.concatenate(value)


class FitSample:
    """The vertices that one solve looks at."""

    def __init__(
        self, subset: ModelSubset, n_data: int, landmark_corners: Int[ndarray, "k 3"], weight: Float[ndarray, " n"]
    ) -> None:
        """Keep the data vertices first, the landmarks' corners behind them."""
        self.subset, self.n_data, self.landmark_corners, self.weight = subset, n_data, landmark_corners, weight
        self.landmark_kernel = np.ones(len(landmark_corners))


def vertex_areas(vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> Float[ndarray, " n"]:
    """Give each vertex a third of the area of its triangles."""
    _, area = face_normals(vertices, faces)
    return np.bincount(faces.ravel(), np.repeat(area / 3, 3), len(vertices))
