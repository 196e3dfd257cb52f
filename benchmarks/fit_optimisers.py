"""Second-order steps against Adam on the energy of a fit: how low after how many seconds, and what a step costs.

    python -m benchmarks.fit_optimisers --model FOLDER [--subjects 20] [--points 2500]

Heads are drawn from the model's own priors, half of each is seen, and both optimisers start at the priors' means in
the true pose, with the same points, kernel and spread. `--fit` measures the fit that users get as well, which begins
with a search for the pose and finds the spread: its energy is another one, its distances can be compared. Without a
model random weights of the default size are used: their energies mean nothing, their seconds do.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.stage_runs import print_table
from nphm_core.config import ExpressionModelConfig, FitConfig, IdentityModelConfig
from nphm_core.fitting import solver
from nphm_core.fitting.clouds import Prepared, clouds_of, start_variables
from nphm_core.fitting.code_priors import CodePriors
from nphm_core.fitting.energy import HeadEnergy, Kernel
from nphm_core.fitting.fit import fit_heads
from nphm_core.fitting.observations import Observation
from nphm_core.fitting.variables import Bases, Basis, Clouds, Variables, rotation_matrices
from nphm_core.models.neural_head import NeuralHead, build_head
from nphm_core.spaces import Similarity

SPREAD_MM = 0.5
ROBUST_MM = 4.0


def observed(head: NeuralHead, n_subjects: int, n_points: int, rng: np.random.Generator) -> list[tuple[Prepared, ...]]:
    """Draw heads and points on the half of their surface that faces +z."""
    generator = torch.Generator(head.identity_codes.device).manual_seed(0)
    identity = head.identity_prior.sample(n_subjects, generator=generator, temperature=0.7)
    expression = head.expression_prior.sample(n_subjects, generator=generator, temperature=0.7)
    points = torch.rand(n_subjects, 4 * n_points, 3, generator=generator, device=identity.device) - 0.5
    for _ in range(8):
        distance, gradient = (part.detach() for part in head.identity.sdf_and_gradient(points, identity))
        points = points - distance.clamp(-0.1, 0.1)[..., None] * torch.nn.functional.normalize(gradient, dim=2)
    posed = head.posed(points, identity, expression).detach().double().cpu().numpy()
    normals = torch.nn.functional.normalize(gradient, dim=2).double().cpu().numpy()
    near = (distance.abs() < 0.004).cpu().numpy()
    same, out = Similarity.identity(), []
    for k in range(n_subjects):
        ids = np.flatnonzero(near[k] & (normals[k, :, 2] > 0))
        ids = ids if len(ids) > n_points // 4 else np.arange(len(posed[k]))
        ids = rng.permutation(ids)[:n_points]
        out.append((Prepared(Observation(posed[k, ids], normals[k, ids], mm_per_unit=250.0), same, same, (same,)),))
    return out


class Watch:
    """Notes seconds and energies under one kernel; what the noting itself takes does not count."""

    def __init__(self, energy: HeadEnergy, kernel: Kernel) -> None:
        self._energy, self._kernel, self._own = energy, kernel, 0.0
        self.lines: list[tuple[float, float]] = []
        self.last: Variables | None = None
        self._started = self._now()

    def note(self, variables: Variables) -> None:
        """Note where the optimiser is."""
        before = self._now()
        found = self._energy.evaluate(variables)
        value = float(self._energy.value(variables, found, self._kernel).mean())
        self.lines.append((before - self._started - self._own, value))
        self.last = variables
        self._own += self._now() - before

    def _now(self) -> float:
        if self._energy.clouds.points.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def run_second_order(energy: HeadEnergy, start: Variables, kernel: Kernel, bases: Bases, n_steps: int) -> Watch:
    """Take Levenberg-Marquardt steps."""
    found, variables = energy.evaluate(start, restart=True), start
    damping = torch.full((energy.clouds.n_subjects,), 1e-3, dtype=torch.float64, device=start.identity.device)
    watch = Watch(energy, kernel)
    for _ in range(n_steps):
        before = energy.value(variables, found, kernel)
        variables, found, _, damping = solver._step(energy, variables, found, kernel, bases, before, damping)
        watch.note(variables)
    return watch


def run_adam(energy: HeadEnergy, start: Variables, kernel: Kernel, n_steps: int, rate: float) -> Watch:
    """Take Adam's steps; roots are followed by the Newton step that gradients need anyway, and found anew at times."""
    leaves = [part.detach().clone().requires_grad_(True) for part in (start.identity, start.expression)]
    pose = start.identity.new_zeros(len(start.log_scale), 7).requires_grad_(True)
    optimiser = torch.optim.Adam([{"params": leaves, "lr": rate}, {"params": [pose], "lr": 0.2 * rate}])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / n_steps))

    def variables() -> Variables:
        turned = rotation_matrices(pose[:, :3]) @ start.rotation
        return Variables(leaves[0], leaves[1], turned, start.translation + pose[:, 3:6], start.log_scale + pose[:, 6])

    roots = energy.evaluate(start, restart=True).roots
    watch = Watch(energy, kernel)
    for step in range(n_steps):
        if step % 5 == 0:
            roots = energy.evaluate(_detached(variables()), roots).roots
        now = variables()
        value: Tensor = energy.value(now, energy.measured(now, roots), kernel).sum()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % max(1, n_steps // 20) == 0:
            watch.note(_detached(variables()))
    return watch


def fitted(
    head: NeuralHead, scans: list[tuple[Prepared, ...]], settings: FitConfig, clouds: Clouds
) -> tuple[Variables, float]:
    """Fit as `pipelines.fit` does; give the seconds too."""
    problems = [tuple(one.observation for one in own) for own in scans]
    generator = torch.Generator(clouds.points.device).manual_seed(0)
    started = time.perf_counter()
    results = fit_heads(head, problems, settings, generator=generator)
    seconds = time.perf_counter() - started
    poses = [pose for result in results for pose in result.T_canonical_observed]
    values = (
        [result.identity_code for result in results],
        [code for result in results for code in result.expression_codes],
        [pose.rotation for pose in poses],
        [pose.translation for pose in poses],
        [np.log(pose.scale) for pose in poses],
    )
    return Variables(*(torch.as_tensor(np.stack(v)).to(clouds.points) for v in values)), seconds


def say(name: str, energy: HeadEnergy, variables: Variables, kernel: Kernel, seconds: float) -> None:
    """Print where an optimiser ended, at once: the next one may take minutes, and be stopped."""
    found = energy.evaluate(variables, restart=True)
    distance = found.distance_mm.abs()[found.agrees]
    facts = f"energy {float(energy.value(variables, found, kernel).mean()):.1f}"
    facts += f", distances of seen points: median {float(distance.median()):.3f}, mean {float(distance.mean()):.3f} mm"
    print(f"{name}: {seconds:.2f} s, {facts}", file=sys.stderr, flush=True)


def _detached(variables: Variables) -> Variables:
    names = ("identity", "expression", "rotation", "translation", "log_scale")
    return replace(variables, **{name: getattr(variables, name).detach() for name in names})


def _untrained(device: str) -> NeuralHead:
    from nphm_core.template.anchors import mean_anchors

    generator = torch.Generator().manual_seed(0)
    means = torch.from_numpy(mean_anchors()).float()
    head = build_head(IdentityModelConfig(), ExpressionModelConfig(), means, generator=generator)
    codes = (0.05 * torch.randn(100, n, generator=generator) for n in (head.identity.n_code, head.expression.n_code))
    first, second = codes
    return NeuralHead(head.identity, head.expression, identity_codes=first, expression_codes=second).to(device)


def main() -> int:
    """Print the energies over time and the cost of a step."""
    options = _parser().parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    if options.model is None:
        head = _untrained(device)
    else:
        from nphm_core.models.checkpoint import from_pretrained

        head = from_pretrained(options.model, device=device)
    head.requires_grad_(False)
    settings = FitConfig(n_points=options.points)
    rng = np.random.default_rng(0)
    scans = observed(head, options.subjects, options.points, rng)
    clouds = clouds_of(scans, settings, rng=rng, like=head.identity_prior.mean)
    energy = HeadEnergy(head, clouds, CodePriors.of(head, settings), settings)
    start = start_variables(head, scans, clouds)
    kernel = Kernel(ROBUST_MM, torch.full_like(clouds.log_scale, SPREAD_MM))
    free = [Basis.whole(n) for n in (head.identity.n_code, head.expression_prior.n_code)]
    runs: list[tuple[str, Callable[[], Watch], int]] = [
        ("second order", lambda: run_second_order(energy, start, kernel, Bases(*free), options.steps), options.steps)
    ]
    for rate in options.rates:
        n = options.adam_steps
        runs.append((f"Adam {rate:g}", lambda rate=rate, n=n: run_adam(energy, start, kernel, n, rate), n))
    if options.fit:
        found, seconds = fitted(head, scans, settings, clouds)
        say("fit", energy, found, kernel, seconds)
    rows = []
    for name, run, n_steps in runs:
        if options.warm:
            run()
        watch = run()
        assert watch.last is not None
        say(name, energy, watch.last, kernel, watch.lines[-1][0])
        for seconds, value in watch.lines[:: max(1, len(watch.lines) // 8)] + watch.lines[-1:]:
            rows.append((name, f"{seconds:.2f}", f"{value:.1f}", f"{1000 * watch.lines[-1][0] / n_steps:.1f}"))
    print_table(("optimiser", "seconds", "mean energy", "ms a step"), rows)
    if device == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, {torch.cuda.get_device_name()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_optimisers", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a trained model; default: random weights")
    parser.add_argument("--subjects", type=int, default=20, help="subjects fitted together, one scan each")
    parser.add_argument("--points", type=int, default=2500, help="points of a scan")
    parser.add_argument("--steps", type=int, default=20, help="second-order steps")
    parser.add_argument("--adam-steps", type=int, default=400, help="steps of Adam")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.003, 0.01, 0.03], help="Adam's learning rates")
    parser.add_argument("--fit", action="store_true", help="measure the whole fit beside them")
    parser.add_argument("--tf32", action="store_true", help="products in TF32 on a GPU")
    parser.add_argument("--warm", action="store_true", help="run everything twice and report the second time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
