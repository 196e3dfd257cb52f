"""Points of the mean head lie on its posed skin, with outward normals."""

import numpy as np
import pytest
import torch

from nphm_core.errors import FittingError
from nphm_core.fitting.mean_head import mean_head_points
from nphm_core.fitting.measured_points import Pose, find_roots, measure
from tests.fitting.blob_head import blob_head


def test_points_lie_on_the_skin_and_normals_are_its_own() -> None:
    head = blob_head()
    points, normals = mean_head_points(head, generator=torch.Generator().manual_seed(0))
    identity, expression = head.identity_prior.mean[None], head.expression_prior.mean[None]
    posed = torch.from_numpy(points).float()[None]
    roots = find_roots(head, posed, identity, expression, n_steps=12, tolerance=1e-5)
    found = measure(
        head, posed, identity, expression, Pose(torch.eye(3)[None], torch.zeros(1, 3), torch.zeros(1)), roots
    )
    assert found.distance.detach().abs().max() < 0.005
    assert ((found.normal[0].detach().numpy() * normals).sum(1) > 0.999).all()
    assert (np.linalg.norm(points, axis=1) > 0.1).all()
    # All around, the back as well as the front.
    assert np.linalg.norm(normals.mean(axis=0)) < 0.3


def test_a_model_without_a_surface_is_refused() -> None:
    head = blob_head()
    head.identity.mean_anchors.zero_()
    head.identity.radius = lambda directions, code: directions[..., 0] * 0 - 1.0
    with pytest.raises(FittingError, match="hardly any surface"):
        mean_head_points(head, generator=torch.Generator().manual_seed(0))
