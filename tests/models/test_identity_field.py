"""The ensemble against a plain twin, its symmetries, its derivatives, and what leaving members out costs."""

import pytest
import torch
from torch.nn import functional

from nphm_core.models.identity_field import BACKGROUND, N_MEMBERS, N_PAIRS, build_identity_field
from nphm_core.models.neural_head import build_head


def _plain_sdf(field, point, code):
    """Evaluate one point as the paper writes it, member by member."""
    settings = field.settings
    anchors = field.anchors(code[None])[0]
    glob, local = (part[0] for part in field.split_code(code[None]))
    values, logits = [], []
    for k in range(N_MEMBERS):
        offset = point - anchors[k] if k < BACKGROUND else point
        if settings.share_mirrored and k < 2 * N_PAIRS and k % 2:
            offset = offset * torch.tensor([-1.0, 1, 1])
        network = int(field.member_network[k])
        u = torch.cat([offset, glob, local[k]])
        h = u
        for layer, (weight, bias) in enumerate(zip(field.networks.weights, field.networks.biases, strict=True)):
            if layer == field.networks.skip:
                h = torch.cat([h, u]) / 2**0.5
            h = weight[network] @ h + bias[network]
            if layer + 1 < field.networks.n_layers:
                h = functional.softplus(h, beta=100)
        values.append(h[0])
        squared = (point - anchors[k]).square().sum() if k < BACKGROUND else settings.background_distance_sq
        logits.append(-torch.as_tensor(squared) / settings.blend_variance)
    weights = torch.stack(logits).softmax(0)
    return (weights * torch.stack(values)).sum()


def _points(n_heads, n_points, seed=0):
    return 0.4 * torch.randn(n_heads, n_points, 3, generator=torch.Generator().manual_seed(seed))


def _codes(field, n, seed=1):
    return 0.3 * torch.randn(n, field.n_code, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [True, False])
def test_the_field_is_the_plain_sum_over_members(small_identity, anchors, share):
    field = build_identity_field(small_identity.model_copy(update={"share_mirrored": share}), anchors)
    points, codes = _points(2, 5), _codes(field, 2)
    found = field.sdf(points, codes)
    for b in range(2):
        for n in range(5):
            wanted = _plain_sdf(field, points[b, n], codes[b])
            torch.testing.assert_close(found[b, n], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blend", ["softmax", "released"])
@pytest.mark.parametrize("n_nearest", [0, 5])
@pytest.mark.parametrize("kind", ["ensemble", "global"])
def test_the_written_out_gradient_is_that_of_autograd(small_identity, anchors, kind, n_nearest, blend):
    settings = small_identity.model_copy(
        update={"kind": kind, "n_nearest": n_nearest, "blend": blend, "n_global_code": 12, "n_global_hidden": 40}
    )
    field = build_identity_field(settings, anchors).double()
    points, codes = _points(2, 30).double().requires_grad_(), _codes(field, 2).double()
    sdf, gradient = field.sdf_and_gradient(points, codes)
    (wanted,) = torch.autograd.grad(field.sdf(points, codes).sum(), points)
    torch.testing.assert_close(sdf, field.sdf(points, codes))
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-10)


def test_the_gradient_can_be_differentiated_by_weights_codes_and_points(small_identity, anchors):
    field = build_identity_field(small_identity.model_copy(update={"n_nearest": 6}), anchors).double()
    points, codes = _points(1, 6).double().requires_grad_(), _codes(field, 1).double().requires_grad_()

    def loss(points, codes):
        sdf, gradient = field.sdf_and_gradient(points, codes)
        return sdf.square().sum() + (gradient.norm(dim=2) - 1).square().sum()

    assert torch.autograd.gradcheck(loss, (points, codes), eps=1e-6, atol=1e-5)
    loss(points, codes).backward()
    weight = field.networks.weights[1]
    step, index = 1e-6, (3, 2, 4)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[index] += sign * step
            values.append(loss(points, codes))
            weight[index] -= sign * step
    assert float(weight.grad[index]) == pytest.approx(float(values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)


def test_swapping_the_codes_of_pairs_and_negating_x_gives_the_same_distances(small_identity, anchors):
    field = build_identity_field(small_identity, anchors)
    with torch.no_grad():
        # A symmetric head has symmetric anchors and networks of the midline that cannot tell left from right.
        field.anchor_network[-1].weight.zero_()
        field.anchor_network[-1].bias.zero_()
        for network in range(N_PAIRS, field.networks.n_networks):
            field.networks.weights[0][network, :, 0] = 0
            skip = field.networks.weights[field.networks.skip]
            skip[network, :, skip.shape[2] - field.networks.n_code - 3] = 0
    points, code = _points(1, 200), _codes(field, 1)
    glob, local = field.split_code(code)
    order = torch.arange(N_MEMBERS)
    order[: 2 * N_PAIRS] = order[: 2 * N_PAIRS].view(-1, 2).flip(1).flatten()
    mirrored = torch.cat([glob, local[:, order].flatten(1)], dim=1)
    flip = torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(field.sdf(points * flip, mirrored), field.sdf(points, code), rtol=1e-5, atol=1e-6)


def test_leaving_out_far_members_changes_less_than_their_weight_allows(small_identity, anchors):
    dense = build_identity_field(small_identity, anchors)
    points, codes = _points(1, 2000), _codes(dense, 1)
    full = dense.sdf(points, codes)
    logits = -torch.cdist(points, dense.anchors(codes)).square() / small_identity.blend_variance
    background = torch.full_like(logits[..., :1], -small_identity.background_distance_sq / 0.01)
    weights = torch.cat([logits, background], dim=2).softmax(dim=2)
    spread = _spread_of_members(dense, points, codes)
    for n_nearest in (4, 8, 12):
        sparse = build_identity_field(small_identity.model_copy(update={"n_nearest": n_nearest}), anchors)
        sparse.load_state_dict(dense.state_dict())
        kept = weights[..., :-1].topk(n_nearest, dim=2).values.sum(2) + weights[..., -1]
        bound = (1 - kept).clamp_min(0) * spread + 1e-6
        assert ((sparse.sdf(points, codes) - full).abs() <= bound).all()


def test_a_threshold_leaves_out_members_below_it_only(small_identity, anchors):
    dense = build_identity_field(small_identity, anchors)
    sparse = build_identity_field(small_identity.model_copy(update={"min_weight": 1e-4}), anchors)
    sparse.load_state_dict(dense.state_dict())
    points, codes = _points(2, 1000), _codes(dense, 2)
    spread = _spread_of_members(dense, points, codes)
    error = (sparse.sdf(points, codes) - dense.sdf(points, codes)).abs()
    assert (error <= 40 * 1e-4 * spread + 1e-6).all()
    assert error.max() > 0


def _spread_of_members(field, points, codes):
    """Give the largest difference between two members' values at each point."""
    parts = []
    for k in range(N_MEMBERS):
        # A member alone: all other weights vanish when its own is the only one left.
        alone = field.split_code(codes)[1][:, k]
        code = torch.cat([field.split_code(codes)[0], alone], dim=1)
        offset = points - field.anchors(codes)[:, k : k + 1] if k < BACKGROUND else points
        place = (offset * field.member_flip[k]).flatten(0, 1)
        network = field.member_network[k : k + 1]
        folded = field.networks.fold(code[:, None], network)
        from nphm_core.models.networks import RowGroups

        starts = tuple(0 if n <= int(network) else len(place) for n in range(field.networks.n_networks + 1))
        values = field.networks.values(place, folded, RowGroups(starts, None))
        parts.append(values.view(points.shape[:2]))
    table = torch.stack(parts)
    return table.amax(0) - table.amin(0)


def test_far_from_all_anchors_the_background_decides(small_identity, anchors):
    field = build_identity_field(small_identity, anchors)
    codes, points = _codes(field, 1), torch.tensor([[[3.0, 1.0, 2.0]]])
    other = codes.clone()
    other[:, field.settings.n_global : -field.settings.n_local] += 1.0
    # The anchors depend on the global part, which stays.
    torch.testing.assert_close(field.sdf(points, codes), field.sdf(points, other))


def test_heads_of_a_batch_do_not_see_each_other(small_identity, anchors):
    field = build_identity_field(small_identity.model_copy(update={"n_nearest": 6}), anchors)
    points, codes = _points(3, 50), _codes(field, 3)
    together = field.sdf(points, codes)
    for b in range(3):
        torch.testing.assert_close(field.sdf(points[b : b + 1], codes[b : b + 1])[0], together[b], rtol=1e-5, atol=1e-6)


def test_random_weights_depend_on_the_generator_only(small_identity, small_expression, anchors):
    first, second = (
        build_head(small_identity, small_expression, anchors, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_many_heads_of_one_point_give_what_heads_of_many_points_give(small_identity, anchors):
    field = build_identity_field(small_identity.model_copy(update={"min_weight": 1e-2}), anchors).double()
    points, codes = _points(1, 60).double(), _codes(field, 1).double()
    sdf, gradient = field.sdf_and_gradient(points, codes)
    each = codes.expand(60, -1).clone().requires_grad_()
    alone, gradient_alone = field.sdf_and_gradient(points.transpose(0, 1), each)
    torch.testing.assert_close(alone[:, 0], sdf[0])
    torch.testing.assert_close(gradient_alone[:, 0], gradient[0])
    shared = codes.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(field.sdf(points, shared).sum(), shared)
    (found,) = torch.autograd.grad(alone.sum(), each)
    torch.testing.assert_close(found.sum(0, keepdim=True), wanted)
