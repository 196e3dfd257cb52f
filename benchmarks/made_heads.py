"""What the speed benchmarks train on and ask for: made-up heads of real size, with all rows of the defaults.

A subject is an ellipsoid through the mean anchors, somewhat larger or smaller; a scan is its surface, and the same
stretched. Member counts at its points are those of a head, as the anchors are.
"""

import numpy as np
import torch

from nphm_core.config import ExpressionModelConfig, IdentityModelConfig, TrainExpressionConfig, TrainIdentityConfig
from nphm_core.models.neural_head import NeuralHead, build_head
from nphm_core.models.priors import Shrinkage
from nphm_core.supervision.samples import DistanceSamples, SdfSamples, SurfaceSamples
from nphm_core.template.anchors import mean_anchors
from nphm_core.training.loop import Plan, Trainer
from nphm_core.training.objectives import ExpressionObjective, FrozenIdentities
from nphm_core.training.optimisers import Codebook
from nphm_core.training.pairs import PairSamples, RegisteredPair
from nphm_core.training.processes import Processes
from nphm_core.training.samples import IdentitySamples
from nphm_core.training.start import first_codebook, first_expression_field, first_identity_field
from nphm_core.training.train_identity import identity_objective

CENTRE, RADII = np.array([0.0, 0.0, -0.15]), np.array([0.29, 0.46, 0.42])
_ROWS = {"face": 120_000, "rest": 80_000, "near": 200_000, "far": 50_000}


def ellipsoid(size: float, rng: np.random.Generator) -> SdfSamples:
    """Samples of one subject; distances are exact to first order near the surface."""

    def directions(n: int) -> np.ndarray:
        d = rng.standard_normal((n, 3))
        return d / np.linalg.norm(d, axis=1, keepdims=True)

    def at(d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        normal = d / RADII
        return CENTRE + size * RADII * d, normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def surface(name: str) -> SurfaceSamples:
        return SurfaceSamples(*at(directions(_ROWS[name])))

    def distance(name: str, spread: float) -> DistanceSamples:
        points, normals = at(directions(_ROWS[name]))
        offset = spread * rng.standard_normal(len(points))
        return DistanceSamples(points + offset[:, None] * normals, offset, np.ones(len(points), bool))

    return SdfSamples(surface("face"), surface("rest"), distance("near", 0.01), distance("far", 0.2))


def identity_trainer(
    settings: TrainIdentityConfig, device: torch.device, *, n_subjects: int = 64, seed: int = 0
) -> Trainer:
    """Make a first stage that has not begun."""
    rng = np.random.default_rng(0)
    some = [ellipsoid(size, rng) for size in (0.9, 0.97, 1.04, 1.1)]
    sizes = np.array([0.9, 0.97, 1.04, 1.1])[np.arange(n_subjects) % len(some)]
    anchors = mean_anchors()[None] * sizes[:, None, None]
    made = [some[i % len(some)] for i in range(n_subjects)]
    samples = IdentitySamples.from_arrays([f"s{i}" for i in range(n_subjects)], made, anchors, device=device)
    field = first_identity_field(settings.model, samples.mean_anchors, None, seed=seed)
    objective = identity_objective(field, samples, settings, {}, seed, Processes.current())
    plan = Plan("benchmark", 1, 1, 1, settings.optimiser, settings.precision, captured=settings.captured)
    return Trainer(plan, field, objective)


def expression_trainer(settings: TrainExpressionConfig, device: torch.device, *, n_scans: int = 64) -> Trainer:
    """Make a second stage that has not begun, with scans of 80,000 vertices."""
    vertices, faces = _globe(200, 400)
    pair = RegisteredPair(vertices, vertices * [1.05, 1, 1], np.ones(len(vertices)), faces)
    pairs = PairSamples([f"s/{i}" for i in range(n_scans)], np.zeros(n_scans, int), [pair] * n_scans, device=device)
    head = untrained_head(device)
    identities = FrozenIdentities(head.identity, head.identity_codes[:1])
    field = first_expression_field(settings, head.identity.n_code, None, seed=0, device=device)
    book = first_codebook(
        pairs.scans,
        field.n_code,
        settings.code_spread,
        settings.optimiser,
        seed=0,
        purpose="x",
        device=device,
        known={},
    )
    assert isinstance(book, Codebook)
    objective = ExpressionObjective(
        field, pairs, book, identities, settings, seed=0, purpose="x", processes=Processes.current()
    )
    plan = Plan("benchmark", 1, 1, 1, settings.optimiser, settings.precision, captured=settings.captured)
    return Trainer(plan, field, objective)


def untrained_head(
    device: torch.device, identity: IdentityModelConfig | None = None, expression: ExpressionModelConfig | None = None
) -> NeuralHead:
    """Make a head of the default size with random weights and codes; its surface is none."""
    generator = torch.Generator().manual_seed(0)
    means = torch.from_numpy(mean_anchors()).float()
    head = build_head(
        identity or IdentityModelConfig(), expression or ExpressionModelConfig(), means, generator=generator
    )
    assert head.expression is not None
    first, second = (
        0.05 * torch.randn(100, n, generator=generator) for n in (head.identity.n_code, head.expression.n_code)
    )
    # Chosen, the shrinkage costs half a minute, and random codes have nothing to choose by.
    how = (Shrinkage(), Shrinkage())
    return NeuralHead(head.identity, head.expression, identity_codes=first, expression_codes=second, shrinkage=how).to(
        device
    )


def _globe(n_rings: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A sphere of rings and columns, open at the poles."""
    v, u = np.meshgrid(np.linspace(0.05, 0.95, n_rings) * np.pi, np.arange(n_columns) / n_columns * 2 * np.pi)
    unit = np.stack([np.sin(v) * np.cos(u), np.cos(v), np.sin(v) * np.sin(u)], axis=2).reshape(-1, 3)
    a = np.arange(n_columns)[:, None] * n_rings + np.arange(n_rings - 1)
    b = np.roll(np.arange(n_columns), -1)[:, None] * n_rings + np.arange(n_rings - 1)
    quads = np.stack([a, a + 1, b + 1, b], axis=2).reshape(-1, 4)
    return CENTRE + RADII * unit, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
