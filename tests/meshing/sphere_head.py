"""Heads that are spheres: a model with known answers, and a template in the form of a ball."""

import numpy as np
import torch
from torch.nn import functional

from nphm_core.geometry.subdivision import loop_subdivision
from nphm_core.models.identity_field import IdentityField
from nphm_core.models.neural_head import NeuralHead
from nphm_core.template.anchors import mean_anchors
from nphm_core.template.model import HeadModel
from nphm_core.template.template import LandmarkEmbedding, Template, bare_template


def ball(n_levels=4):
    corners = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    for _ in range(n_levels):
        step = loop_subdivision(faces, len(corners))
        corners, faces = step.matrix @ corners, step.faces
        corners = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    return corners, faces


def _anchor_vertices(unit):
    # Each takes the nearest vertex that is left: some of NPHM's anchors lie in one direction.
    left, out = np.ones(len(unit), bool), []
    for anchor in mean_anchors():
        score = np.where(left, unit @ anchor, -np.inf)
        out.append(int(score.argmax()))
        left[out[-1]] = False
    return np.array(out)


def ball_template(*, has_jaw=False):
    """A ball of radius 0.1 m (0.4 in canonical units), with one component that makes it taller, perhaps with a jaw."""
    unit, faces = ball()
    jaw = 1 / (1 + np.exp(20 * (unit[:, 1] + 0.3))) * (unit[:, 2] > 0) if has_jaw else np.zeros(len(unit))
    model = HeadModel(
        v_template=0.1 * unit,
        faces=faces,
        shapedirs_identity=(0.01 * unit * [0, 1, 0])[:, :, None].astype(np.float32),
        shapedirs_expression=np.zeros((len(unit), 3, 0), np.float32),
        weights=np.stack([1 - jaw, jaw], axis=1),
        parents=(-1, 0),
        joint_names=("root", "jaw" if has_jaw else "none"),
        joints=np.zeros((2, 3)),
        joints_identity=np.zeros((2, 3, 1)),
        name="ball",
        landmarks68=(np.arange(68), np.tile([1.0, 0.0, 0.0], (68, 1))),
    )
    bare = bare_template(model)
    landmarks = LandmarkEmbedding(np.array([4, 33]), np.array([10, 20]), np.full((2, 3), 1 / 3), np.ones(2), np.ones(2))
    regions = bare.regions | {"hidden": unit[:, 1] < -0.9}
    return Template(model, landmarks, regions, bare.pairs, _anchor_vertices(unit), bare.hash)


class SphereIdentity(IdentityField):
    """A sphere whose radius is its code."""

    n_code, n_ambient = 1, 0

    def __init__(self):
        super().__init__()
        unit, _ = ball()
        self.directions = torch.from_numpy(unit[_anchor_vertices(unit)]).float()

    def anchors(self, code):
        return code[:, :, None] * self.directions

    def sdf(self, points, code, ambient=None):
        assert (ambient is None) == (self.n_ambient == 0)
        return points.norm(dim=2) - code[:, :1]

    def sdf_and_gradient(self, points, code, ambient=None):
        return self.sdf(points, code, ambient), functional.normalize(points, dim=2)


class SphereHead(NeuralHead):
    """A sphere that an expression moves along x and stretches along y, forward or backward."""

    is_backward = False

    def __init__(self, *, is_backward=False):
        super().__init__(
            SphereIdentity(),
            None,
            identity_codes=torch.tensor([[0.3], [0.4]]),
            expression_codes=torch.tensor([[0.0, 1.0], [0.1, 0.8]]),
            subjects=("small", "large"),
            scans=("small/rest", "large/low"),
        )
        self.is_backward = is_backward
        if not is_backward:
            self.expression = torch.nn.Identity()

    def posed(self, points, identity_code, expression_code):
        x, y, z = points.unbind(dim=2)
        return torch.stack([x + expression_code[:, :1], y * expression_code[:, 1:], z], dim=2)

    def posed_sdf(self, points, identity_code, expression_code):
        x, y, z = points.unbind(dim=2)
        canonical = torch.stack([x - expression_code[:, :1], y / expression_code[:, 1:], z], dim=2)
        return self.identity.sdf(canonical, identity_code)
