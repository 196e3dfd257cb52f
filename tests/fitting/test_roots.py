"""Canonical points of warps whose inverse is known, and of the released model's."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nphm_core.fitting.roots import attached, find_canonical, inverse_matrices
from nphm_core.models.released import read_released

TOLERANCE = 1e-6


class Shear:
    """Moves points along x by a wave of y, whose inverse is known; a code scales it."""

    def __init__(self) -> None:
        self.n_evaluated: list[int] = []

    def deformation(self, points, condition, expression_code):
        self.n_evaluated.append(points.shape[1])
        wave = expression_code[:, :1] * torch.sin(6 * points[..., 1]) + condition[:, :1]
        return torch.stack([wave, torch.zeros_like(wave), torch.zeros_like(wave)], dim=-1)

    def deformation_and_jacobian(self, points, condition, expression_code):
        slope = 6 * expression_code[:, :1] * torch.cos(6 * points[..., 1])
        jacobian = points.new_zeros(*points.shape, 3)
        jacobian[..., 0, 1] = slope
        return self.deformation(points, condition, expression_code), jacobian


class Twist:
    """Turns points around y by an angle that grows with their height: strongly nonlinear, inverse known."""

    def angle(self, points, expression_code):
        return expression_code[:, :1] * points[..., 1]

    def turned(self, points, angle):
        x, y, z = points.unbind(-1)
        return torch.stack([angle.cos() * x + angle.sin() * z, y, angle.cos() * z - angle.sin() * x], dim=-1)

    def deformation(self, points, condition, expression_code):
        return self.turned(points, self.angle(points, expression_code)) - points

    def deformation_and_jacobian(self, points, condition, expression_code):
        def moved(p):
            return self.deformation(p[None, None], condition[:1], expression_code[:1])[0, 0]

        flat = points.reshape(-1, 3)
        jacobian = torch.stack([torch.autograd.functional.jacobian(moved, p) for p in flat])
        return self.deformation(points, condition, expression_code), jacobian.view(*points.shape, 3)


def some_points(n_heads: int = 2, n: int = 50, dtype=torch.float32) -> torch.Tensor:
    return 0.8 * torch.rand(n_heads, n, 3, generator=torch.Generator().manual_seed(1), dtype=dtype) - 0.4


def test_a_shear_is_inverted() -> None:
    points, code = some_points(), torch.tensor([[0.1], [-0.3]])
    condition = torch.tensor([[0.02], [0.0]])
    observed = points + Shear().deformation(points, condition, code)
    roots = find_canonical(Shear(), observed, condition, code, n_steps=12, tolerance=TOLERANCE)
    assert bool(roots.converged.all())
    assert (roots.points - points).abs().max() < 1e-5


def test_a_strong_twist_is_inverted() -> None:
    field, points, code = Twist(), some_points(1), torch.tensor([[2.5]])
    none = torch.zeros(1, 1)
    observed = points + field.deformation(points, none, code)
    roots = find_canonical(field, observed, none, code, n_steps=20, tolerance=TOLERANCE)
    assert roots.converged.float().mean() > 0.98
    assert (roots.points - points)[roots.converged].abs().max() < 1e-4


def test_only_unfinished_points_are_evaluated() -> None:
    points, code, none = some_points(1, 100), torch.tensor([[0.2]]), torch.zeros(1, 1)
    field = Shear()
    observed = points + field.deformation(points, none, code)
    start = points.clone()
    start[:, :7] += 0.03
    field.n_evaluated.clear()
    roots = find_canonical(field, observed, none, code, n_steps=8, tolerance=TOLERANCE, start=start)
    assert bool(roots.converged.all())
    assert field.n_evaluated[0] == 100
    # First and last all of them, in between only those that are not found yet.
    assert set(field.n_evaluated[1:-1]) == {7}


def test_a_warm_start_is_neither_changed_nor_shared() -> None:
    points, code, none = some_points(1), torch.tensor([[0.2]]), torch.zeros(1, 1)
    observed = points + Shear().deformation(points, none, code)
    start, kept = points + 0.01, (points + 0.01).clone()
    first = find_canonical(Shear(), observed, none, code, n_steps=8, tolerance=TOLERANCE, start=start)
    found = first.points.clone()
    find_canonical(Shear(), observed + 0.1, none, code, n_steps=8, tolerance=TOLERANCE, start=first)
    assert torch.equal(start, kept)
    assert torch.equal(first.points, found)


class Step:
    """Has no root within reach of the point itself: x jumps away from zero."""

    def deformation(self, points, condition, expression_code):
        jump = 0.03 * torch.tanh(400 * points[..., :1])
        return torch.cat([jump, torch.zeros_like(points[..., 1:])], dim=-1)

    def deformation_and_jacobian(self, points, condition, expression_code):
        jacobian = points.new_zeros(*points.shape, 3)
        jacobian[..., 0, 0] = 12 / torch.cosh(400 * points[..., 0]).square()
        return self.deformation(points, condition, expression_code), jacobian


def test_what_cannot_be_found_keeps_its_best_iterate_and_is_marked() -> None:
    class Away(Step):
        def deformation(self, points, condition, expression_code):
            return 1.0 + (points - 0.5).square().sum(-1, keepdim=True).expand_as(points) - points

    observed, none = torch.zeros(1, 5, 3), torch.zeros(1, 1)
    roots = find_canonical(Away(), observed, none, none, n_steps=6, tolerance=TOLERANCE)
    assert not bool(roots.converged.any())
    assert bool(torch.isfinite(roots.points).all())
    again = roots.points + Away().deformation(roots.points, none, none) - observed
    assert torch.allclose(again.norm(dim=2), roots.distance, atol=1e-6)


def test_what_had_no_root_nearby_gets_one_round_and_what_had_one_gets_all() -> None:
    class Away(Shear):
        def deformation(self, points, condition, expression_code):
            out = super().deformation(points, condition, expression_code)
            # The first point sees only what is no root.
            out[:, :1] += 1.0 + (points[:, :1] - 0.5).square() if points.shape[1] > 1 else 5.0
            return out

    field, code, none = Away(), torch.tensor([[0.2]]), torch.zeros(1, 1)
    points = some_points(1, 20)
    observed = points + Shear().deformation(points, none, code)
    nearby = find_canonical(Shear(), observed, none, code, n_steps=8, tolerance=TOLERANCE)
    counts = {}
    for is_found in (True, False):
        start = replace(nearby, converged=nearby.converged.clone())
        start.converged[:, 0] = is_found
        field.n_evaluated.clear()
        roots = find_canonical(field, observed, none, code, n_steps=12, tolerance=TOLERANCE, start=start, restart=False)
        assert roots.converged[0].tolist() == [False] + 19 * [True]
        counts[is_found] = len(field.n_evaluated)
    assert counts[True] > 8
    assert counts[False] < 6


def test_other_starts_find_what_the_first_misses() -> None:
    canonical, none = torch.tensor([[[0.02, 0.0, 0.0], [-0.02, 0.0, 0.0]]]), torch.zeros(1, 1)
    observed = canonical + Step().deformation(canonical, none, none)
    # At its start the warp's slope is far from that at the root.
    start = torch.zeros_like(observed) - 0.0005 * canonical.sign()
    arguments = {"n_steps": 4, "tolerance": 1e-5, "start": start}
    found = find_canonical(Step(), observed, none, none, **arguments)
    assert bool(found.converged.all())
    assert (found.points - canonical).abs().max() < 1e-4


def test_inverse_matrices_agrees_with_linalg() -> None:
    matrices = torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2 * torch.eye(3)
    kept = matrices[torch.linalg.det(matrices).abs() > 1e-2]
    assert torch.allclose(inverse_matrices(kept), torch.linalg.inv(kept), atol=1e-10)
    assert bool(torch.isfinite(inverse_matrices(torch.zeros(1, 3, 3))).all())


@pytest.mark.parametrize("name", ["condition", "expression", "observed"])
def test_implicit_gradients_agree_with_finite_differences(name: str) -> None:
    field, points = Shear(), some_points(1, 6, torch.float64)
    inputs = {
        "condition": torch.tensor([[0.03]], dtype=torch.float64),
        "expression": torch.tensor([[0.2]], dtype=torch.float64),
    }
    inputs["observed"] = points + field.deformation(points, inputs["condition"], inputs["expression"])
    weights = torch.randn(points.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def value(changed: dict[str, torch.Tensor], *, keep: bool = False) -> torch.Tensor:
        args = (changed["observed"], changed["condition"], changed["expression"])
        roots = find_canonical(field, *(a.detach() for a in args), n_steps=20, tolerance=1e-13)
        return (weights * (attached(field, roots, *args) if keep else roots.points)).sum()

    leaf = inputs[name].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(inputs | {name: leaf}, keep=True), leaf)
    for k in range(min(4, leaf.numel())):
        shift = torch.zeros_like(leaf).flatten()
        shift[k] = 1e-5
        shift = shift.view(leaf.shape)
        slope = (value(inputs | {name: inputs[name] + shift}) - value(inputs | {name: inputs[name] - shift})) / 2e-5
        assert math.isclose(float(slope), float(gradient.flatten()[k]), rel_tol=1e-5, abs_tol=1e-7)


def test_canonical_points_are_those_of_the_released_code(shared_dir) -> None:
    folder = shared_dir / "parity"
    means = torch.from_numpy(np.load(folder / "mean_anchors.npy")).float()
    head = read_released(
        folder / "identity_checkpoint_epoch_0.tar", folder / "expression_checkpoint_epoch_0.tar", means
    )
    with np.load(folder / "golden.npz") as stored:
        golden = {
            key: torch.from_numpy(stored[key])
            for key in ("subjects", "expressions", "points", "observed", "canonical_found", "converged")
        }
    identity, expression = head.identity_codes[golden["subjects"]], head.expression_codes[golden["expressions"]]
    with torch.no_grad():
        condition = head.condition(identity)
    roots = find_canonical(head.expression, golden["observed"], condition, expression, n_steps=20, tolerance=1e-6)
    with torch.no_grad():
        offset = head.expression.deformation(golden["canonical_found"], condition, expression)
    # The released search flags points whose distance is up to 6e-4; those are compared as exactly as they were found.
    left = (golden["canonical_found"] + offset - golden["observed"]).norm(dim=2)
    error = (roots.points - golden["canonical_found"]).norm(dim=2)
    exact = golden["converged"] & (left < 1e-5)
    assert bool(roots.converged.all())
    assert exact.float().mean() > 0.3
    assert error[exact].max() < 1e-4
    assert bool((error < 1.1 * left + 1e-5).all())
    assert (roots.points - golden["points"][:, : error.shape[1]]).abs().max() < 1e-5
