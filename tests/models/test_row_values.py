"""Values in pieces against the plain operations, and softplus against float64."""

import numpy as np
import pytest
import torch

from nphm_core.models.identity_field import build_identity_field
from nphm_core.models.networks import RowGroups, StackedNetworks
from nphm_core.models.row_values import PIECE_ROWS, _softplus_one


def test_softplus_is_that_of_float64_to_a_tenth_of_a_millionth():
    z = np.concatenate([np.linspace(-0.3, 0.3, 2001), [-40.0, -1e-30, 0.0, 40.0]]).astype(np.float32)
    found = np.array([_softplus_one(x) for x in z])
    exact = np.logaddexp(0, 100 * z.astype(np.float64)) / 100
    assert np.abs(found - exact)[np.abs(z) < 1].max() < 1e-7
    assert found[-1] == 40.0
    assert (found >= 0).all()


@pytest.mark.parametrize("n_points", [1, 3, 700])
def test_values_without_slopes_are_the_plain_ones(small_identity, anchors, n_points):
    torch.manual_seed(0)
    field = build_identity_field(small_identity, anchors)
    points, code = 0.4 * torch.randn(2, n_points, 3), 0.3 * torch.randn(2, field.n_code)
    plain = field.sdf(points, code).detach()
    with torch.no_grad():
        torch.testing.assert_close(field.sdf(points, code), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_threads", [2, 5])
def test_threads_share_the_pieces_and_change_nothing(n_threads):
    torch.manual_seed(0)
    networks = StackedNetworks(2, n_point=3, n_code=5, n_out=1, n_hidden=24, n_layers=4)
    codes = networks.fold(torch.randn(1, 2, 5), torch.arange(2))
    points = torch.randn(5 * PIECE_ROWS + 7, 3)
    groups = RowGroups((0, 2 * PIECE_ROWS + 3, len(points)), torch.arange(len(points)) % 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.no_grad():
            alone = networks.values(points, codes, groups)
        torch.set_num_threads(n_threads)
        with torch.no_grad():
            shared = networks.values(points, codes, groups)
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, shared)


@pytest.mark.parametrize("n_layers", [4, 5, 7])
def test_networks_of_any_depth_and_more_rows_than_a_piece_agree(n_layers):
    torch.manual_seed(0)
    networks = StackedNetworks(1, n_point=3, n_code=5, n_out=3, n_hidden=24, n_layers=n_layers)
    codes = networks.fold(torch.randn(2, 1, 5), torch.zeros(1, dtype=torch.long))
    points = torch.randn(2 * (PIECE_ROWS + 10), 3)
    groups = RowGroups((0, len(points)), None)
    plain = networks.values(points, codes, groups).detach()
    with torch.no_grad():
        torch.testing.assert_close(networks.values(points, codes, groups), plain, rtol=0, atol=1e-5)


def test_in_double_precision_and_for_slopes_the_plain_operations_serve(small_identity, anchors):
    field = build_identity_field(small_identity, anchors).double()
    with torch.no_grad():
        value = field.sdf(torch.zeros(1, 2, 3).double(), torch.zeros(1, field.n_code).double())
    assert value.dtype == torch.float64


def test_no_rows_give_no_values():
    networks = StackedNetworks(1, n_point=3, n_code=5, n_out=1, n_hidden=24, n_layers=4)
    codes = networks.fold(torch.randn(1, 1, 5), torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        assert networks.values(torch.zeros(0, 3), codes, RowGroups((0, 0), None)).shape == (0, 1)
