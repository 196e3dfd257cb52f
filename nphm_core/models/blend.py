"""Which members of an ensemble matter at a point, and how their values are blended.

A member's logit is -|x - a|^2 / variance, the background's a constant; the weights are their softmax. Leaving members
out whose weights sum to t changes the blend by at most t times the spread of all members' values at that point, since
the others' weights are normalised anew. Gradients of the weights are written out, as the networks' are.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nphm_core.config import IdentityModelConfig
from nphm_core.models.networks import BLOCK_ROWS, RowGroups

# What the released code adds to each distance, and to the sum of its weights.
_RELEASED_DISTANCE = 1e-5
_RELEASED_SUM = 1e-6


@dataclass(frozen=True)
class Members:
    """Rows of an evaluation: pairs of a point and a member, sorted by the member's network.

    On a GPU each network's rows fill whole blocks; a row that only fills up repeats some point.
    """

    point: Int[Tensor, " n_rows"]
    """Point of each row, counted over all heads."""
    member: Int[Tensor, " n_rows"]
    """In [0, 40); 39 is the background."""
    slot: Int[Tensor, " n_rows"]
    """Place of each row in the table of weights, as one number; one beyond the table for a row that fills up."""
    groups: RowGroups
    weights: Float[Tensor, "n_all_points n_slots"]
    """Blend weights; zero where a slot is not used."""
    by_logit: Float[Tensor, "n_all_points n_slots 3"] | None
    """Gradient of each slot's logit by the point."""


def choose_members(
    points: Float[Tensor, "n_heads n_points 3"],
    anchors: Float[Tensor, "n_heads 39 3"],
    settings: IdentityModelConfig,
    member_network: Int[Tensor, " 40"],
    n_networks: int,
) -> Members:
    """Choose the members to evaluate: the nearest, those above a weight, or all; the background always."""
    n_heads, n_points, n_anchors = points.shape[0], points.shape[1], anchors.shape[1]
    background = torch.full((n_heads, n_points, 1), n_anchors, device=points.device)
    if 0 < settings.n_nearest < n_anchors:
        with torch.no_grad():
            nearest = torch.cdist(points, anchors).topk(settings.n_nearest, dim=2, largest=False).indices
    else:
        nearest = torch.arange(n_anchors, device=points.device).expand(n_heads, n_points, -1)
    chosen = torch.cat([nearest, background], dim=2)
    offset = _offsets(points, anchors, nearest)
    weights, by_logit = _blend_weights(offset, settings)
    used = None
    if settings.min_weight > 0:
        used = weights.detach() >= settings.min_weight
        used[..., -1] = True
        weights = torch.where(used, weights, 0)
        if settings.blend == "softmax":
            weights = weights / weights.sum(dim=2, keepdim=True)
    return _sorted_rows(chosen, used, weights, by_logit, member_network, n_networks)


def blend_members(
    members: Members, values: Float[Tensor, " n_rows"], gradients: Float[Tensor, "n_rows n_coordinates"] | None
) -> tuple[Float[Tensor, " n_all_points"], Float[Tensor, "n_all_points n_coordinates"] | None]:
    """Blend the members' values, and their gradients by the point where they are given."""
    weights = members.weights
    table = _spread(values[:, None], members, weights)[..., 0]
    blended = (weights * table).sum(dim=1)
    if gradients is None or members.by_logit is None:
        return blended, None
    by_point = (weights[..., None] * _spread(gradients, members, weights)).sum(dim=1)
    by_weight = (weights * (table - blended[:, None]))[..., None] * members.by_logit
    by_place = by_point[:, :3] + by_weight.sum(dim=1)
    return blended, torch.cat([by_place, by_point[:, 3:]], dim=1)


def _offsets(points: Tensor, anchors: Tensor, nearest: Tensor) -> Float[Tensor, "n_heads n_points n_nearest 3"]:
    n_heads, n_points, n_nearest = nearest.shape
    if n_nearest == anchors.shape[1]:
        return points[:, :, None] - anchors[:, None]
    index = nearest.flatten(1)[..., None].expand(-1, -1, 3)
    return points[:, :, None] - anchors.gather(1, index).view(n_heads, n_points, n_nearest, 3)


def _blend_weights(
    offset: Float[Tensor, "n_heads n_points n_nearest 3"], settings: IdentityModelConfig
) -> tuple[Float[Tensor, "n_heads n_points n_slots"], Float[Tensor, "n_heads n_points n_slots 3"]]:
    """Give weights, the background's last, and the gradients of the logits by the point."""
    variance = settings.blend_variance
    constant = -settings.background_distance_sq / variance
    if settings.blend == "softmax":
        logits = -offset.square().sum(dim=3) / variance
        by_logit = -2 * offset / variance
        background = logits.new_full((*logits.shape[:2], 1), constant)
        weights = torch.cat([logits, background], dim=2).softmax(dim=2)
    else:
        length = offset.norm(dim=3)
        distance = length + _RELEASED_DISTANCE
        by_logit = -2 * (distance / length.clamp_min(1e-12))[..., None] * offset / variance
        raw = (-distance.square() / variance).exp()
        background = raw.new_full((*raw.shape[:2], 1), constant).exp()
        raw = torch.cat([raw, background], dim=2)
        weights = raw / (raw.sum(dim=2, keepdim=True) + _RELEASED_SUM)
    return weights, torch.cat([by_logit, torch.zeros_like(by_logit[:, :, :1])], dim=2)


def _sorted_rows(
    chosen: Tensor,
    used: Tensor | None,
    weights: Tensor,
    by_logit: Tensor,
    member_network: Tensor,
    n_networks: int,
) -> Members:
    n_heads, n_points, n_slots = chosen.shape
    member, n_members = chosen.flatten(), len(member_network)
    slot = torch.arange(len(member), device=chosen.device) if used is None else used.flatten().nonzero()[:, 0]
    # Rows of one code lie together as well: their biases are read, and the biases' gradients written, in order.
    head = slot // (n_points * n_slots)
    member = member.index_select(0, slot)
    order = (member_network[member] * (n_heads * n_members) + head * n_members + member).argsort(stable=True)
    slot, member, head = slot[order], member[order], head[order]
    counts = torch.bincount(member_network[member], minlength=n_networks)
    starts, blocks = (), None
    point = slot // n_slots
    if chosen.is_cuda:
        source, is_filler, blocks = _filled_blocks(counts)
        point, member, head = point[source], member[source], head[source]
        slot = torch.where(is_filler, chosen.numel(), slot[source])
    else:
        starts = tuple(torch.cat([counts.new_zeros(1), counts.cumsum(0)]).tolist())
    return Members(
        point=point,
        member=member,
        slot=slot,
        groups=RowGroups(starts, head * n_members + member, blocks),
        weights=weights.flatten(0, 1),
        by_logit=by_logit.flatten(0, 1),
    )


def _filled_blocks(
    counts: Int[Tensor, " n_networks"],
) -> tuple[Int[Tensor, " n_filled"], Bool[Tensor, " n_filled"], Int[Tensor, " n_blocks"]]:
    """Give the sorted row that stands at each row of whole blocks, whether it only fills up, and blocks' networks."""
    n_blocks = (counts + BLOCK_ROWS - 1) // BLOCK_ROWS
    blocks = torch.repeat_interleave(n_blocks)
    first_block, first_row = n_blocks.cumsum(0) - n_blocks, counts.cumsum(0) - counts
    inner = (torch.arange(len(blocks), device=counts.device) - first_block[blocks]) * BLOCK_ROWS
    row = inner[:, None] + torch.arange(BLOCK_ROWS, device=counts.device)
    is_filler = row >= counts[blocks][:, None]
    source = first_row[blocks][:, None] + torch.minimum(row, counts[blocks][:, None] - 1)
    return source.flatten(), is_filler.flatten(), blocks


def _spread(rows: Tensor, members: Members, weights: Tensor) -> Float[Tensor, "n_all_points n_slots n_columns"]:
    """Put the rows back to their points; slots that were not evaluated hold zero."""
    table = rows.new_zeros(weights.numel() + 1, rows.shape[1])
    return table.index_put((members.slot,), rows)[:-1].unflatten(0, weights.shape)
