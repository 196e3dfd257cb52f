"""Time a training step of both stages, and the part of it that draws the samples; settings are the defaults.

`python -m benchmarks.training_step [--subjects 100] [--scans 64] [--steps 60]`. The samples are made up: subjects are
balls with the default number of rows, scans are spheres of 80,000 vertices.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from nphm_core.config import IdentityModelConfig, TrainExpressionConfig, TrainIdentityConfig
from nphm_core.models.neural_head import NeuralHead, build_head
from nphm_core.supervision.samples import DistanceSamples, SdfSamples, SurfaceSamples
from nphm_core.training.draws import BatchOrder, Draws, Part
from nphm_core.training.loop import Plan, Trainer, matrix_precision
from nphm_core.training.objectives import ExpressionObjective, FrozenIdentities
from nphm_core.training.optimisers import Codebook
from nphm_core.training.pairs import PairSamples, RegisteredPair
from nphm_core.training.processes import Processes
from nphm_core.training.samples import GroupSizes, IdentitySamples
from nphm_core.training.start import first_expression_field, first_identity_field
from nphm_core.training.train_identity import identity_objective

N_ROWS = {"face": 120_000, "rest": 80_000, "near": 200_000, "far": 50_000}


def ball(radius: float, rng: np.random.Generator) -> SdfSamples:
    """Samples of a ball."""

    def directions(n: int) -> np.ndarray:
        d = rng.standard_normal((n, 3))
        return d / np.linalg.norm(d, axis=1, keepdims=True)

    def surface(name: str) -> SurfaceSamples:
        d = directions(N_ROWS[name])
        return SurfaceSamples(radius * d, d)

    def distance(name: str, spread: float) -> DistanceSamples:
        n = N_ROWS[name]
        r = np.abs(radius + spread * rng.standard_normal(n))
        return DistanceSamples(r[:, None] * directions(n), r - radius, np.ones(n, bool))

    return SdfSamples(surface("face"), surface("rest"), distance("near", 0.01), distance("far", 0.2))


def globe(n_rings: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A sphere of rings and columns, open at the poles."""
    v, u = np.meshgrid(np.linspace(0.05, 0.95, n_rings) * np.pi, np.arange(n_columns) / n_columns * 2 * np.pi)
    vertices = np.stack([np.sin(v) * np.cos(u), np.cos(v), np.sin(v) * np.sin(u)], axis=2).reshape(-1, 3) * 0.4
    a = np.arange(n_columns)[:, None] * n_rings + np.arange(n_rings - 1)
    b = np.roll(np.arange(n_columns), -1)[:, None] * n_rings + np.arange(n_rings - 1)
    quads = np.stack([a, a + 1, b + 1, b], axis=2).reshape(-1, 4)
    return vertices, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def milliseconds(call: Callable[[int], object], steps: int) -> float:
    """Mean time of calls, the device's included, after a few to warm up."""
    for step in range(min(10, steps)):
        call(step)
    wait()
    start = time.perf_counter()
    for step in range(steps):
        call(step)
    wait()
    return round(1000 * (time.perf_counter() - start) / steps, 3)


def wait() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def plan(settings: TrainIdentityConfig | TrainExpressionConfig) -> Plan:
    """Give a plan that logs nothing."""
    return Plan("benchmark", 1, 1, 1, settings.optimiser, settings.precision)


def identity(n_subjects: int, steps: int, device: torch.device) -> dict[str, float]:
    """Time the first stage."""
    rng = np.random.default_rng(0)
    some = [ball(radius, rng) for radius in (0.3, 0.4, 0.5, 0.6)]
    anchors = 0.3 * rng.standard_normal((n_subjects, 39, 3))
    made = [some[i % len(some)] for i in range(n_subjects)]
    samples = IdentitySamples.from_arrays([f"s{i}" for i in range(n_subjects)], made, anchors, device=device)
    settings = TrainIdentityConfig()
    order = BatchOrder(n_subjects, settings.batch_subjects, seed=0, purpose="x", device=device)
    draws, sizes, part = Draws(0, "x", device), GroupSizes.of(settings), Part.whole(order.batch)
    out = {"draw": milliseconds(lambda s: samples.draw(order, s, sizes, part, generator=draws.at(s)), steps)}
    for kind in ("ensemble", "global"):
        for precision in ("float32", "tf32", "bfloat16"):
            field = first_identity_field(IdentityModelConfig(kind=kind), samples.mean_anchors, None, seed=0)
            objective = identity_objective(field, samples, settings, {}, 0, Processes())
            trainer = Trainer(plan(settings), field, objective)
            with matrix_precision(precision):
                out[f"{kind} {precision}"] = milliseconds(trainer.step, steps)
    return out


def expression(n_scans: int, steps: int, device: torch.device) -> dict[str, float]:
    """Time the second stage."""
    vertices, faces = globe(200, 400)
    pair = RegisteredPair(vertices, vertices * [1.1, 1, 1], np.ones(len(vertices)), faces)
    start = time.perf_counter()
    pairs = PairSamples([f"s/{i}" for i in range(n_scans)], np.zeros(n_scans, int), [pair] * n_scans, device=device)
    out = {"seconds to load a scan": round((time.perf_counter() - start) / n_scans, 3)}
    settings = TrainExpressionConfig()
    order = BatchOrder(n_scans, settings.batch_scans, seed=0, purpose="x", device=device)
    draws, part = Draws(0, "x", device), Part.whole(order.batch)
    out["draw"] = milliseconds(lambda s: pairs.draw(order.at(s), 1000, part, generator=draws.at(s)), steps)
    generator = torch.Generator().manual_seed(0)
    head: NeuralHead = build_head(IdentityModelConfig(), None, torch.zeros(39, 3), generator=generator).to(device)
    identities = FrozenIdentities(head.identity, torch.zeros(1, head.identity.n_code, device=device))
    for precision in ("float32", "tf32", "bfloat16"):
        field = first_expression_field(settings, head.identity.n_code, None, seed=0, device=device)
        book = Codebook(torch.zeros(n_scans, field.n_code, device=device), settings.optimiser)
        objective = ExpressionObjective(
            field, pairs, book, identities, settings, seed=0, purpose="x", processes=Processes()
        )
        trainer = Trainer(plan(settings), field, objective)
        with matrix_precision(precision):
            out[precision] = milliseconds(trainer.step, steps)
    return out


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--scans", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    found = {
        "device": name,
        "identity, ms": identity(options.subjects, options.steps, device),
        "expression, ms": expression(options.scans, options.steps, device),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
