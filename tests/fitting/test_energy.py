"""The energy's normal equations against differences of the energy, and what it says of simple cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nphm_core.config import FitConfig
from nphm_core.fitting.clouds import Prepared, clouds_of, start_variables
from nphm_core.fitting.code_priors import CodePriors
from nphm_core.fitting.energy import HeadEnergy, Kernel
from nphm_core.fitting.observations import Observation
from nphm_core.fitting.variables import Bases, Basis, Variables, moved
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import Similarity
from tests.fitting.blob_head import N_EXPRESSION, N_IDENTITY, blob_head, surface_points

SETTINGS = FitConfig(n_points=80, root_tolerance_mm=1e-8, root_steps=30, weight_normals=0.7)
IDENTITY, EXPRESSION = torch.tensor([[0.5, -0.3, 0.4, 0.2, -0.6]]), torch.tensor([[0.5, -0.4], [0.2, 0.6]])
BASES = Bases(Basis.whole(N_IDENTITY), Basis.whole(N_EXPRESSION))


def problem(head: NeuralHead, *, anchors: bool = True) -> tuple[HeadEnergy, Variables]:
    """Two scans of one subject, seen from slightly wrong variables, in float64."""
    scans = []
    for k in range(2):
        directions = torch.randn(80, 3, generator=torch.Generator().manual_seed(k))
        points, normals = surface_points(head, IDENTITY, EXPRESSION[k : k + 1], directions)
        known = head.identity.anchors(IDENTITY)[0].double().numpy() if anchors else None
        seen = Observation(points.double().numpy(), normals.double().numpy(), None, known, None, 250.0)
        identity = Similarity.identity()
        scans.append(Prepared(seen, identity, identity, (identity,)))
    head = head.double()
    clouds = clouds_of([tuple(scans)], SETTINGS, rng=np.random.default_rng(0), like=head.identity_prior.mean)
    energy = HeadEnergy(head, clouds, CodePriors.of(head, SETTINGS), SETTINGS)
    start = start_variables(head, [tuple(scans)], clouds)
    wrong = replace(
        start,
        identity=IDENTITY.double() + 0.3,
        expression=EXPRESSION.double() - 0.2,
        translation=start.translation + 0.01,
        log_scale=start.log_scale + 0.02,
    )
    return energy, wrong


@pytest.mark.parametrize("anchors", [False, True])
def test_gradient_agrees_with_differences_of_the_energy(anchors: bool) -> None:
    energy, variables = problem(blob_head(), anchors=anchors)
    found = energy.evaluate(variables, restart=True)
    assert bool(found.agrees.all())
    kernel = Kernel(5.0, energy.spread_mm(found))

    def value(step: torch.Tensor) -> float:
        there = moved(variables, step, BASES, energy.clouds)
        return float(energy.value(there, energy.evaluate(there, found.roots), kernel)[0])

    # The tilt's derivative holds the warp's slope fixed, so expression and pose of the normals' part are not exact.
    exact = FitConfig(**SETTINGS.model_dump() | {"weight_normals": 0.0})
    energy.settings = exact
    _, gradient = energy.normal_equations(variables, found, kernel, BASES)
    for k in range(gradient.shape[1]):
        step = torch.zeros_like(gradient)
        step[0, k] = 1e-5
        slope = (value(step) - value(-step)) / 2e-5
        assert 2 * float(gradient[0, k]) == pytest.approx(slope, rel=1e-4, abs=1e-3 * float(gradient.abs().max()))


def test_the_whole_basis_is_that_of_unit_vectors() -> None:
    energy, variables = problem(blob_head())
    found = energy.evaluate(variables, restart=True)
    kernel = Kernel(5.0, energy.spread_mm(found))
    units = Bases(*(Basis.of(torch.eye(n, dtype=torch.float64)) for n in (N_IDENTITY, N_EXPRESSION)))
    for mine, other in zip(
        energy.normal_equations(variables, found, kernel, BASES),
        energy.normal_equations(variables, found, kernel, units),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)
    step = torch.linspace(-0.1, 0.1, BASES.size(2), dtype=torch.float64)[None]
    one, two = (moved(variables, step, bases, energy.clouds) for bases in (BASES, units))
    torch.testing.assert_close(one.identity, two.identity)
    torch.testing.assert_close(one.expression, two.expression)


def test_the_true_variables_have_no_distance() -> None:
    energy, variables = problem(blob_head())
    true = replace(
        variables,
        identity=IDENTITY.double(),
        expression=EXPRESSION.double(),
        translation=torch.zeros_like(variables.translation),
        log_scale=torch.zeros_like(variables.log_scale),
    )
    found = energy.evaluate(true, restart=True)
    assert found.distance_mm.abs().max() < 1e-3
    assert found.tilt.abs().max() < 1e-3


def test_guesses_for_the_same_points_are_their_canonical_points() -> None:
    energy, variables = problem(blob_head())
    found = energy.evaluate(variables, restart=True)
    assert found.roots is not None
    known = found.roots.converged & (energy.clouds.weights > 0)
    guess = energy.guesses(variables, energy.clouds, found)
    assert guess is not None
    assert known.any()
    assert (guess - found.roots.points)[known].abs().max() < 1e-5


def test_a_smaller_view_of_the_points_is_no_better_fit() -> None:
    energy, variables = problem(blob_head(), anchors=False)
    found = energy.evaluate(variables)
    near = replace(variables, log_scale=variables.log_scale - 1.0, translation=variables.translation)
    assert energy.evaluate(near).distance_mm.abs().mean() > found.distance_mm.abs().mean()


def test_priors_agree_with_those_of_the_model() -> None:
    head = blob_head()
    codes = torch.randn(4, N_IDENTITY, generator=torch.Generator().manual_seed(1))
    prior = CodePriors.of(head, FitConfig()).identity
    assert torch.allclose(prior.value(codes), head.identity_prior.mahalanobis_sq(codes), rtol=1e-4)
