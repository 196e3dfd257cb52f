"""Identity fields: the signed distance of a head in canonical space, given its identity code.

`EnsembleField` is NPHM's (Giebenhain et al., CVPR 2023): small networks around 39 anchors that are predicted from the
global part of the code, mirrored pairs sharing weights, and one background network, blended by Gaussians. The blend is
a softmax over -|x - a|^2 / variance and a constant for the background, so that far from all anchors the background
takes over. The released code divides by the sum plus 1e-6 instead, which silences its background and shrinks distances
far away; `blend: released` keeps that for released weights. Only the members that matter at a point are evaluated.

`GlobalField` is the baseline of NPMs (Palafox et al., ICCV 2021): one DeepSDF network. Canonical units throughout;
signed distances are negative inside; codes are one row a head.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nphm_core.config import IdentityModelConfig
from nphm_core.models.blend import Members, blend_members, choose_members
from nphm_core.models.dispatch import Room, fused_sdf, fused_sdf_and_gradient, is_fused
from nphm_core.models.networks import FoldedCodes, RowGroups, StackedNetworks

N_ANCHORS = 39
N_PAIRS = 16
BACKGROUND = N_ANCHORS
"""Number of the background member; members 2k and 2k + 1 are a mirrored pair for k below N_PAIRS."""

N_MEMBERS = N_ANCHORS + 1


class IdentityField(nn.Module, ABC):
    """Signed distance of heads; the interface of all kinds."""

    n_code: int
    """Length of an identity code."""
    n_ambient: int
    """Ambient coordinates that a point has beside its place (MonoNPHM's backward variant); usually 0."""
    mean_anchors: Tensor
    """Anchors of the mean head (39, 3), which the predicted offsets are added to."""

    @abstractmethod
    def anchors(self, code: Float[Tensor, "n_heads n_code"]) -> Float[Tensor, "n_heads 39 3"]:
        """Predict the anchors."""

    @abstractmethod
    def sdf(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        code: Float[Tensor, "n_heads n_code"],
        ambient: Float[Tensor, "n_heads n_points n_ambient"] | None = None,
    ) -> Float[Tensor, "n_heads n_points"]:
        """Give signed distances; differentiable once by weights, code, points and ambient coordinates."""

    @abstractmethod
    def sdf_and_gradient(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        code: Float[Tensor, "n_heads n_code"],
        ambient: Float[Tensor, "n_heads n_points n_ambient"] | None = None,
    ) -> tuple[Float[Tensor, "n_heads n_points"], Float[Tensor, "n_heads n_points n_coordinates"]]:
        """Give signed distances and their gradient by place, followed by that by the ambient coordinates.

        Both are differentiable once, by everything that `sdf` is differentiable by.
        """

    def code_distance(self) -> Float[Tensor, "n_code n_code"] | None:
        """Give how far apart the places are that two numbers of a code describe, in canonical units.

        A place and its mirror image are one; infinite where a number describes no place. None: no number does.
        """
        return None


class EnsembleField(IdentityField):
    """NPHM's ensemble of local networks."""

    def __init__(
        self, settings: IdentityModelConfig, mean_anchors: Float[Tensor, "39 3"], *, n_ambient: int = 0
    ) -> None:
        """Make a field with random weights (PyTorch's global generator) around the anchors of a mean head."""
        super().__init__()
        self.settings, self.n_ambient = settings, n_ambient
        self.n_code = settings.n_global + N_MEMBERS * settings.n_local
        self.register_buffer("mean_anchors", mean_anchors.clone().float())
        member_network = _member_networks(settings.share_mirrored)
        self.register_buffer("member_network", member_network, persistent=False)
        self.networks_of_members: tuple[int, ...] = tuple(member_network.tolist())
        self.room = Room()
        flip = torch.ones(N_MEMBERS, 3)
        if settings.share_mirrored:
            flip[1 : 2 * N_PAIRS : 2, 0] = -1
        self.register_buffer("member_flip", flip, persistent=False)
        self.networks = StackedNetworks(
            n_networks=int(member_network.max()) + 1,
            n_point=3 + n_ambient,
            n_code=settings.n_global + settings.n_local,
            n_out=1,
            n_hidden=settings.n_hidden,
            n_layers=settings.n_layers,
        )
        width = settings.n_hidden_anchors
        self.anchor_network = nn.Sequential(
            nn.Linear(settings.n_global, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 3 * N_ANCHORS),
        )  # fmt: skip

    def split_code(
        self, code: Float[Tensor, "n_heads n_code"]
    ) -> tuple[Float[Tensor, "n_heads n_global"], Float[Tensor, "n_heads 40 n_local"]]:
        """Give the global part of codes, and the local part of each member, the background last."""
        n_global = self.settings.n_global
        return code[:, :n_global], code[:, n_global:].unflatten(1, (N_MEMBERS, self.settings.n_local))

    def anchors(self, code: Float[Tensor, "n_heads n_code"]) -> Float[Tensor, "n_heads 39 3"]:
        """Predict the anchors from the global part of codes."""
        offset = self.anchor_network(code[:, : self.settings.n_global])
        return self.mean_anchors + offset.unflatten(1, (N_ANCHORS, 3))

    def sdf(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        code: Float[Tensor, "n_heads n_code"],
        ambient: Float[Tensor, "n_heads n_points n_ambient"] | None = None,
    ) -> Float[Tensor, "n_heads n_points"]:
        """Give signed distances."""
        if is_fused(self, points):
            return fused_sdf(self, points, code)
        members, rows, folded, groups = self._prepare(points, code, ambient)
        values = self.networks.values(rows, folded, groups)
        return blend_members(members, values[:, 0], None)[0].unflatten(0, points.shape[:2])

    def sdf_and_gradient(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        code: Float[Tensor, "n_heads n_code"],
        ambient: Float[Tensor, "n_heads n_points n_ambient"] | None = None,
    ) -> tuple[Float[Tensor, "n_heads n_points"], Float[Tensor, "n_heads n_points n_coordinates"]]:
        """Give signed distances and their gradient, blend and mirror included."""
        if is_fused(self, points):
            return fused_sdf_and_gradient(self, points, code)
        members, rows, folded, groups = self._prepare(points, code, ambient)
        values, jacobian = self.networks.values_and_jacobian(rows, folded, groups)
        flip = self.member_flip[members.member]
        by_place = torch.cat([jacobian[:, 0, :3] * flip, jacobian[:, 0, 3:]], dim=1)
        sdf, gradient = blend_members(members, values[:, 0], by_place)
        assert gradient is not None
        return sdf.unflatten(0, points.shape[:2]), gradient.unflatten(0, points.shape[:2])

    def code_distance(self) -> Float[Tensor, "n_code n_code"] | None:
        """Give the distances of the anchors that two numbers belong to; the global part and the background are far."""
        mirrored = self.mean_anchors * self.mean_anchors.new_tensor([-1.0, 1.0, 1.0])
        near = torch.minimum(
            torch.cdist(self.mean_anchors, self.mean_anchors), torch.cdist(self.mean_anchors, mirrored)
        )
        parts = near.new_full((N_MEMBERS + 1, N_MEMBERS + 1), torch.inf).fill_diagonal_(0.0)
        parts[1 : N_ANCHORS + 1, 1 : N_ANCHORS + 1] = near
        sizes = near.new_tensor([self.settings.n_global] + N_MEMBERS * [self.settings.n_local], dtype=torch.long)
        return parts.repeat_interleave(sizes, dim=0).repeat_interleave(sizes, dim=1)

    def _prepare(
        self, points: Tensor, code: Tensor, ambient: Tensor | None
    ) -> tuple[Members, Tensor, FoldedCodes, RowGroups]:
        anchors = self.anchors(code)
        members = choose_members(points, anchors, self.settings, self.member_network, self.networks.n_networks)
        # The background member sees points as they are.
        centres = torch.cat([anchors, anchors.new_zeros(len(anchors), 1, 3)], dim=1).flatten(0, 1)
        flat = points.flatten(0, 1)
        condition = members.groups.condition
        assert condition is not None
        place = flat.index_select(0, members.point) - centres.index_select(0, condition)
        place = place * self.member_flip[members.member]
        if self.n_ambient:
            if ambient is None:
                raise ValueError(f"this field needs {self.n_ambient} ambient coordinates a point")
            place = torch.cat([place, ambient.flatten(0, 1).index_select(0, members.point)], dim=1)
        global_code, local_code = self.split_code(code)
        both = torch.cat([global_code[:, None].expand(-1, N_MEMBERS, -1), local_code], dim=2)
        if len(place) >= len(code) * N_MEMBERS:
            return members, place, self.networks.fold(both, self.member_network), members.groups
        # Many heads of a point or two, as in the Jacobians of a fit: most members of most heads are not asked for.
        groups = replace(members.groups, condition=None)
        return members, place, self.networks.fold_rows(both.flatten(0, 1)[condition], groups), groups


class GlobalField(IdentityField):
    """One network for the whole head."""

    def __init__(
        self, settings: IdentityModelConfig, mean_anchors: Float[Tensor, "39 3"], *, n_ambient: int = 0
    ) -> None:
        """Make a field with random weights; its anchors do not depend on the code."""
        super().__init__()
        self.settings, self.n_ambient = settings, n_ambient
        self.n_code = settings.n_global_code
        self.register_buffer("mean_anchors", mean_anchors.clone().float())
        self.networks = StackedNetworks(
            1, 3 + n_ambient, self.n_code, 1, settings.n_global_hidden, settings.n_global_layers
        )

    def anchors(self, code: Float[Tensor, "n_heads n_code"]) -> Float[Tensor, "n_heads 39 3"]:
        """Give the mean anchors, for every head."""
        return self.mean_anchors.expand(len(code), -1, -1)

    def sdf(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        code: Float[Tensor, "n_heads n_code"],
        ambient: Float[Tensor, "n_heads n_points n_ambient"] | None = None,
    ) -> Float[Tensor, "n_heads n_points"]:
        """Give signed distances."""
        rows, folded, groups = whole_rows(self.networks, points, code, ambient)
        return self.networks.values(rows, folded, groups).unflatten(0, points.shape[:2])[..., 0]

    def sdf_and_gradient(
        self,
        points: Float[Tensor, "n_heads n_points 3"],
        code: Float[Tensor, "n_heads n_code"],
        ambient: Float[Tensor, "n_heads n_points n_ambient"] | None = None,
    ) -> tuple[Float[Tensor, "n_heads n_points"], Float[Tensor, "n_heads n_points n_coordinates"]]:
        """Give signed distances and their gradient."""
        rows, folded, groups = whole_rows(self.networks, points, code, ambient)
        values, jacobian = self.networks.values_and_jacobian(rows, folded, groups)
        shape = points.shape[:2]
        return values[:, 0].unflatten(0, shape), jacobian[:, 0].unflatten(0, shape)


def build_identity_field(
    settings: IdentityModelConfig, mean_anchors: Float[Tensor, "39 3"], *, n_ambient: int = 0
) -> IdentityField:
    """Make the field that the settings name, with random weights."""
    kind = {"ensemble": EnsembleField, "global": GlobalField}[settings.kind]
    return kind(settings, mean_anchors, n_ambient=n_ambient)


def whole_rows(
    networks: StackedNetworks, points: Tensor, code: Tensor, ambient: Tensor | None = None
) -> tuple[Float[Tensor, "n_rows n_coordinates"], FoldedCodes, RowGroups]:
    """Give the rows, folded codes and groups of a call in which one network sees every point."""
    place = points if ambient is None else torch.cat([points, ambient], dim=2)
    folded = networks.fold(code[:, None], torch.zeros(1, dtype=torch.long, device=code.device))
    rows = place.flatten(0, 1)
    return rows, folded, RowGroups((0, len(rows)), None)


def _member_networks(share_mirrored: bool) -> Int[Tensor, " 40"]:
    member = torch.arange(N_MEMBERS)
    if not share_mirrored:
        return member
    return torch.where(member < 2 * N_PAIRS, member // 2, member - N_PAIRS)
