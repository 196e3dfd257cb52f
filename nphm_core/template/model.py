"""The linear head model in FLAME's form: shape and expression bases, joints, pose correctives, linear blend skinning.

Lengths are in metres as in FLAME's files, +y up, +z out of the face, +x to the subject's left. Joints are found by
name and any of them may be missing (GNM has no jaw). Li et al., "Learning a model of facial shape and expression from
4D scans", SIGGRAPH Asia 2017, eq. 1-5.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.template.rotations import cross_matrices, perturbed, rotation_matrices

FLAME_JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
"""Joints of FLAME in the order of its files, which carry no names."""


@dataclass(frozen=True)
class Coefficients:
    """The numbers that select one posed head of a model."""

    identity: Float[ndarray, " n_identity"]
    expression: Float[ndarray, " n_expression"]
    rotations: Float[ndarray, "n_joints 3"]
    """Rotation vectors of the joints relative to their parents."""


@dataclass(frozen=True)
class ModelSubset:
    """The part of a model that a solver looks at: some vertices, leading components, some joints."""

    vertices: Int[ndarray, " n"]
    n_identity: int
    n_expression: int
    joints: tuple[int, ...]
    """Joints with columns in the Jacobian, three each."""
    template: Float[ndarray, "n 3"]
    basis: Float[ndarray, "n 3 n_shape"]
    """Identity then expression components."""
    posedirs: Float[ndarray, "n 3 n_pose"] | None
    weights: Float[ndarray, "n n_joints"]

    @property
    def n_parameters(self) -> int:
        """Number of columns of the Jacobian."""
        return self.n_identity + self.n_expression + 3 * len(self.joints)

    def moved(self, coefficients: Coefficients, step: Float[ndarray, " n_parameters"]) -> Coefficients:
        """Add a solver's step, in the order of the Jacobian's columns; rotations are perturbed from the right."""
        n_id, n_shape = self.n_identity, self.n_identity + self.n_expression
        identity, expression = coefficients.identity.copy(), coefficients.expression.copy()
        identity[:n_id] += step[:n_id]
        expression[: self.n_expression] += step[n_id:n_shape]
        rotations = coefficients.rotations.copy()
        for k, joint in enumerate(self.joints):
            rotations[joint] = perturbed(rotations[joint], step[n_shape + 3 * k : n_shape + 3 * k + 3])
        return Coefficients(identity, expression, rotations)


@dataclass(frozen=True)
class Evaluation:
    """Posed vertices of a subset and their derivatives."""

    positions: Float[ndarray, "n 3"]
    """Metres."""
    jacobian: Float[ndarray, "n 3 n_parameters"]
    """Metres per unit coefficient, then per radian of each joint's right perturbation."""


@dataclass(frozen=True)
class Skeleton:
    """Posed joints of one head."""

    rest: Float[ndarray, "n_joints 3"]
    local: Float[ndarray, "n_joints 3 3"]
    """Rotations relative to the parent."""
    world: Float[ndarray, "n_joints 3 3"]
    position: Float[ndarray, "n_joints 3"]


@dataclass(frozen=True)
class HeadModel:
    """A linear head model; arrays of bases may be float32, positions are float64."""

    v_template: Float[ndarray, "n_vertices 3"]
    faces: Int[ndarray, "n_faces 3"]
    shapedirs_identity: Float[ndarray, "n_vertices 3 n_identity"]
    """Metres per unit coefficient; coefficients have unit variance."""
    shapedirs_expression: Float[ndarray, "n_vertices 3 n_expression"]
    weights: Float[ndarray, "n_vertices n_joints"]
    parents: tuple[int, ...]
    """Parent of each joint, -1 for the first; parents come before children."""
    joint_names: tuple[str, ...]
    joints: Float[ndarray, "n_joints 3"]
    """Rest positions of the mean head."""
    joints_identity: Float[ndarray, "n_joints 3 n_identity"]
    joints_expression: Float[ndarray, "n_joints 3 n_expression"] | None = None
    """None where expressions leave the joints alone (FLAME's do not)."""
    posedirs: Float[ndarray, "n_vertices 3 n_pose"] | None = None
    """Correctives for the entries of R - I of `pose_joints`, row by row."""
    pose_joints: tuple[int, ...] = ()
    expression_names: tuple[str, ...] = ()
    name: str = "head"
    licence: str = "unknown"
    landmarks68: tuple[Int[ndarray, " 68"], Float[ndarray, "68 3"]] | None = None
    """The 68 iBUG landmarks, face and barycentric weights, if the model brings them."""
    mirror: Int[ndarray, " n_vertices"] | None = None
    """Mirrored vertex of each vertex, if the model brings it."""
    facts: dict[str, str] = field(default_factory=dict)
    """What the file says about itself."""

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return len(self.v_template)

    @property
    def n_identity(self) -> int:
        """Number of identity components."""
        return self.shapedirs_identity.shape[2]

    @property
    def n_expression(self) -> int:
        """Number of expression components."""
        return self.shapedirs_expression.shape[2]

    @property
    def n_joints(self) -> int:
        """Number of joints."""
        return len(self.parents)

    def joint(self, name: str) -> int | None:
        """Give the index of a joint, None if the model lacks it."""
        return self.joint_names.index(name) if name in self.joint_names else None

    def zero(self) -> Coefficients:
        """Give the coefficients of the mean head at rest."""
        return Coefficients(np.zeros(self.n_identity), np.zeros(self.n_expression), np.zeros((self.n_joints, 3)))

    def coefficients(
        self,
        identity: Float[ndarray, " a"] | None = None,
        expression: dict[str, float] | Float[ndarray, " b"] | None = None,
        rotations: dict[str, Float[ndarray, " 3"]] | Float[ndarray, "n_joints 3"] | None = None,
    ) -> Coefficients:
        """Fill up given coefficients with zeros.

        Expressions and joints may be given by name; a name that the model lacks raises ValueError.
        """
        zero = self.zero()
        if identity is not None:
            zero.identity[: len(identity)] = identity
        if isinstance(expression, dict):
            for name, value in expression.items():
                zero.expression[_position(self.expression_names, name, "expression")] = value
        elif expression is not None:
            zero.expression[: len(expression)] = expression
        if isinstance(rotations, dict):
            for name, rotvec in rotations.items():
                zero.rotations[_position(self.joint_names, name, "joint")] = rotvec
        elif rotations is not None:
            zero.rotations[:] = rotations
        return zero

    def pose(
        self,
        identity: Float[ndarray, " a"] | None = None,
        expression: dict[str, float] | Float[ndarray, " b"] | None = None,
        rotations: dict[str, Float[ndarray, " 3"]] | Float[ndarray, "n_joints 3"] | None = None,
    ) -> Float[ndarray, "n_vertices 3"]:
        """Give the vertices of a posed head, in metres."""
        return self.posed(self.coefficients(identity, expression, rotations))

    def posed(self, coefficients: Coefficients) -> Float[ndarray, "n_vertices 3"]:
        """Give the vertices of the head that the coefficients select, in metres."""
        c = coefficients
        rest = self.v_template + _times(self.shapedirs_identity, c.identity)
        rest = rest + _times(self.shapedirs_expression, c.expression)
        skeleton = self.skeleton(c)
        if self.posedirs is not None:
            rest = rest + _times(self.posedirs, self._pose_feature(skeleton))
        return _skin(rest, self.weights, skeleton)[0]

    def skeleton(self, coefficients: Coefficients) -> Skeleton:
        """Pose the joints."""
        rest = self.joints + self.joints_identity @ coefficients.identity
        if self.joints_expression is not None:
            rest = rest + self.joints_expression @ coefficients.expression
        local = rotation_matrices(coefficients.rotations)
        world, position = local.copy(), rest.copy()
        for j, parent in enumerate(self.parents):
            if parent >= 0:
                world[j] = world[parent] @ local[j]
                position[j] = position[parent] + world[parent] @ (rest[j] - rest[parent])
        return Skeleton(rest, local, world, position)

    def subset(
        self,
        vertices: Int[ndarray, " n"] | Bool[ndarray, " n_vertices"],
        *,
        n_identity: int | None = None,
        n_expression: int | None = None,
        joints: tuple[str, ...] = ("neck", "jaw"),
        dtype: type = np.float32,
    ) -> ModelSubset:
        """Prepare `evaluate` for some vertices, leading components and joints; joints that are missing are left out."""
        index = np.flatnonzero(vertices) if vertices.dtype == bool else np.asarray(vertices)
        n_id = min(self.n_identity, n_identity if n_identity is not None else self.n_identity)
        n_ex = min(self.n_expression, n_expression if n_expression is not None else self.n_expression)
        parts = [self.shapedirs_identity[index, :, :n_id], self.shapedirs_expression[index, :, :n_ex]]
        found = [self.joint(name) for name in joints]
        return ModelSubset(
            vertices=index,
            n_identity=n_id,
            n_expression=n_ex,
            joints=tuple(j for j in found if j is not None),
            template=self.v_template[index],
            basis=np.ascontiguousarray(np.concatenate(parts, axis=2), dtype=dtype),
            posedirs=None if self.posedirs is None else np.ascontiguousarray(self.posedirs[index], dtype=dtype),
            weights=np.ascontiguousarray(self.weights[index], dtype=np.float64),
        )

    def evaluate(self, coefficients: Coefficients, subset: ModelSubset) -> Evaluation:
        """Give posed positions of a subset and their analytic Jacobian.

        Components beyond the subset's counts take no part: their coefficients have to be zero.
        """
        rest, skeleton = self._rest_pose(coefficients, subset)
        positions, blended = _skin(rest, subset.weights, skeleton)
        jacobian = np.empty((len(rest), 3, subset.n_parameters))
        n_shape = subset.basis.shape[2]
        jacobian[:, :, :n_shape] = np.matmul(blended.astype(subset.basis.dtype), subset.basis)
        shift = self._shift_derivative(skeleton, subset)
        jacobian[:, :, :n_shape] += (subset.weights @ shift.reshape(self.n_joints, -1)).reshape(-1, 3, n_shape)
        for k, joint in enumerate(subset.joints):
            columns = slice(n_shape + 3 * k, n_shape + 3 * k + 3)
            jacobian[:, :, columns] = self._joint_columns(joint, rest, blended, skeleton, subset)
        return Evaluation(positions, jacobian)

    def positions(self, coefficients: Coefficients, subset: ModelSubset) -> Float[ndarray, "n 3"]:
        """Give posed positions of a subset in metres, without derivatives."""
        rest, skeleton = self._rest_pose(coefficients, subset)
        return _skin(rest, subset.weights, skeleton)[0]

    def _rest_pose(self, coefficients: Coefficients, subset: ModelSubset) -> tuple[Float[ndarray, "n 3"], Skeleton]:
        """Give the subset's shaped and corrected vertices before skinning, and the posed joints."""
        shape = np.concatenate(
            [coefficients.identity[: subset.n_identity], coefficients.expression[: subset.n_expression]]
        )
        skeleton = self.skeleton(coefficients)
        rest = subset.template + _times(subset.basis, shape)
        if subset.posedirs is not None:
            rest = rest + _times(subset.posedirs, self._pose_feature(skeleton))
        return rest, skeleton

    def _pose_feature(self, skeleton: Skeleton) -> Float[ndarray, " n_pose"]:
        return (skeleton.local[list(self.pose_joints)] - np.eye(3)).ravel()

    def _shift_derivative(self, skeleton: Skeleton, subset: ModelSubset) -> Float[ndarray, "n_joints 3 n_shape"]:
        """Derive p_j - W_j J_j, the translation of each joint's map, by the shape coefficients."""
        out = np.zeros((self.n_joints, 3, subset.n_identity + subset.n_expression))
        rest = np.zeros_like(out)
        rest[:, :, : subset.n_identity] = self.joints_identity[:, :, : subset.n_identity]
        if self.joints_expression is not None:
            rest[:, :, subset.n_identity :] = self.joints_expression[:, :, : subset.n_expression]
        position = rest.copy()
        for j, parent in enumerate(self.parents):
            if parent >= 0:
                position[j] = position[parent] + skeleton.world[parent] @ (rest[j] - rest[parent])
            out[j] = position[j] - skeleton.world[j] @ rest[j]
        return out

    def _joint_columns(
        self,
        joint: int,
        rest: Float[ndarray, "n 3"],
        blended: Float[ndarray, "n 3 3"],
        skeleton: Skeleton,
        subset: ModelSubset,
    ) -> Float[ndarray, "n 3 3"]:
        """Derive positions by the right perturbation of one joint's rotation."""
        arm = np.zeros_like(rest)
        for k in self._subtree(joint):
            moved = (rest - skeleton.rest[k]) @ skeleton.world[k].T + skeleton.position[k]
            arm += subset.weights[:, k : k + 1] * (moved - skeleton.position[joint])
        columns = -cross_matrices(arm) @ skeleton.world[joint]
        if subset.posedirs is not None and joint in self.pose_joints:
            first = 9 * self.pose_joints.index(joint)
            generators = skeleton.local[joint] @ cross_matrices(np.eye(3))
            corrective = subset.posedirs[:, :, first : first + 9] @ generators.reshape(3, 9).T
            columns += blended @ corrective
        return columns

    def _subtree(self, joint: int) -> list[int]:
        members = [joint]
        for j, parent in enumerate(self.parents):
            if parent in members:
                members.append(j)
        return members


def _position(names: tuple[str, ...], name: str, kind: str) -> int:
    if name not in names:
        raise ValueError(f"the head model has no {kind} {name!r}; it has {', '.join(names)}")
    return names.index(name)


def _times(basis: Float[ndarray, "n 3 k"], values: Float[ndarray, " k"]) -> Float[ndarray, "n 3"]:
    used = np.flatnonzero(values)
    if len(used) == 0:
        return np.zeros(basis.shape[:2])
    if len(used) < 0.5 * len(values):
        basis, values = basis[:, :, used], values[used]
    product = basis.reshape(-1, basis.shape[2]) @ values.astype(basis.dtype)
    return product.reshape(-1, 3).astype(np.float64)


def _skin(
    rest: Float[ndarray, "n 3"], weights: Float[ndarray, "n n_joints"], skeleton: Skeleton
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3 3"]]:
    """Give posed positions and each vertex's blended rotation."""
    blended = (weights @ skeleton.world.reshape(-1, 9)).reshape(-1, 3, 3)
    shift = skeleton.position - np.einsum("jab,jb->ja", skeleton.world, skeleton.rest)
    return np.einsum("nab,nb->na", blended, rest) + weights @ shift, blended
