"""Parts of the GPU benchmark that train: correctness, steps of both stages, the loss over many steps."""

import copy
import statistics
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.gpu_table import Bench
from benchmarks.made_heads import CENTRE, RADII, expression_trainer, identity_trainer, untrained_head
from nphm_core.config import ExpressionModelConfig, IdentityModelConfig, TrainExpressionConfig, TrainIdentityConfig
from nphm_core.training.loop import Trainer, matrix_precision

if TYPE_CHECKING:
    from nphm_core.models.fused.network import Tuning

MAX_ERROR = {"value": 1e-3, "gradient": 1e-3, "derivative": 5e-3}
"""Largest errors of the kernels, as shares of the norm of what float64 says."""

MACS_A_ROW = 3 * 200 + 200 * 101 + 104 * 200 + 200 * 200 + 200
"""Multiplications of the default member network for one value; a step needs twelve times as many operations."""

N_CURVE, N_SMOOTH = 2000, 200
_BARS = {"identity step, ms": 8, "identity step, GB": 4, "deformation step, ms": 1}


def check(bench: Bench) -> None:
    """Compare kernels with float64: values, gradients, and the derivatives of a loss on both, three times."""
    seed = int(torch.randint(2**31, ()))
    bench.say(f"fresh inputs from seed {seed}")
    worst: dict[str, tuple[float, float]] = {}
    for trial in range(3):
        torch.manual_seed(seed + trial)
        for name, error, limit in [*_ensemble_errors(bench.device), *_network_errors(bench.device)]:
            before = worst.get(name, (0.0, limit))[0]
            # A NaN must stay.
            worst[name] = (error if not error <= before else before, limit)
        bench.say(f"inputs {trial + 1} of 3 done")
    for name, (error, limit) in worst.items():
        bench.say(f"largest error of {name}: {error:.2e} (at most {limit:.0e})")
    wrong = [name for name, (error, limit) in worst.items() if not error <= limit]
    if wrong:
        raise AssertionError(f"errors are too large: {', '.join(wrong)}")
    bench.notes.append("kernels agree with float64 on fresh random inputs: " + str(MAX_ERROR))


def _ensemble_errors(device: torch.device) -> list[tuple[str, float, float]]:
    fields = [untrained_head(device, IdentityModelConfig(kernel=kernel)).identity for kernel in ("plain", "fused")]
    fields[0] = copy.deepcopy(fields[1]).double()
    fields[0].settings = IdentityModelConfig(kernel="plain")
    centre, radii = (torch.tensor(v, device=device) for v in (CENTRE, RADII))
    direction = torch.nn.functional.normalize(torch.randn(3, 700, 3, device=device, dtype=torch.float64), dim=2)
    points = centre + radii * direction * (1 + 0.1 * torch.randn(3, 700, 1, device=device))
    code, towards = 0.3 * torch.randn(3, fields[0].n_code, device=device), torch.randn(3, 700, 4, device=device)
    found = []
    for field, dtype in zip(fields, (torch.float64, torch.float32), strict=True):
        field.requires_grad_()
        leaves = [points.to(dtype).requires_grad_(), code.to(dtype).requires_grad_(), *field.parameters()]
        sdf, gradient = field.sdf_and_gradient(leaves[0], leaves[1])
        loss = (sdf.abs() * towards[..., 0]).mean() + (gradient.norm(dim=2) - 1).abs().mean()
        loss = loss + (gradient * towards[..., 1:]).mean()
        slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append((sdf, gradient, *(s for s in slopes if s is not None)))
        with torch.no_grad():
            found[-1] = (field.sdf(leaves[0], leaves[1]), *found[-1])
    names = ["values alone", "values", "gradients", "slopes by points", "slopes by codes"]
    limits = [MAX_ERROR["value"], MAX_ERROR["value"], MAX_ERROR["gradient"]]
    names += ["slopes by weights"] * (len(found[0]) - len(names))
    limits += [MAX_ERROR["derivative"]] * (len(names) - len(limits))
    return [(n, _error(b, a), m) for n, a, b, m in zip(names, *found, limits, strict=True)]


def _network_errors(device: torch.device) -> list[tuple[str, float, float]]:
    field = untrained_head(device, expression=ExpressionModelConfig(kernel="fused")).expression
    assert field is not None
    exact = copy.deepcopy(field).double()
    exact.settings = ExpressionModelConfig(kernel="plain")
    points = 0.5 * torch.randn(3, 500, 3, device=device)
    codes = [torch.randn(3, n, device=device) for n in (field.n_condition, field.n_code)]
    found = []
    for one, dtype in ((exact, torch.float64), (field, torch.float32)):
        leaves = [c.to(dtype).requires_grad_() for c in codes]
        offset = one.deformation(points.to(dtype), *leaves)
        slopes = torch.autograd.grad(offset.square().sum(), [*leaves, *one.networks.parameters()])
        found.append((offset, *slopes))
    names = ["offsets", *["slopes of the deformation"] * (len(found[0]) - 1)]
    limits = [MAX_ERROR["value"]] + [MAX_ERROR["derivative"]] * (len(names) - 1)
    return [(n, _error(b, a), m) for n, a, b, m in zip(names, *found, limits, strict=True)]


def _error(found: Tensor, exact: Tensor) -> float:
    found, exact = found.detach(), exact.detach()
    return float((found.double() - exact).norm() / exact.norm())


def identity(bench: Bench) -> None:
    """Time a step of the first stage, at the default batch."""
    for column, kernel, precision, captured in (
        ("fused, captured", "fused", "tf32", True),
        ("fused", "fused", "tf32", False),
        ("plain tf32", "plain", "tf32", False),
        ("plain fp32", "plain", "float32", False),
    ):
        settings = TrainIdentityConfig(model=IdentityModelConfig(kernel=kernel), precision=precision, captured=captured)
        trainer = identity_trainer(settings, bench.device)
        with bench.peak_gb("identity step, GB", column), matrix_precision(precision):
            milliseconds = bench.milliseconds(trainer.step, warm=12)
        bench.note("identity step, ms", column, milliseconds)
        if kernel == "fused":
            members = _members_a_point(trainer)
            tflop = 12 * MACS_A_ROW * members * 32 * 1693 / 1e12
            bench.note_share("identity step, rate", column, tflop, milliseconds)
            bench.say(f"{members:.2f} members a point")
        trainer._forget_captured()
    for quantity in ("identity step, ms", "identity step, GB"):
        bench.note(quantity, "bar", float(_BARS[quantity]))


def _members_a_point(trainer: Trainer) -> float:
    from nphm_core.models.blend import choose_members

    field = trainer.weights
    drawn = trainer.objective.draw(0)  # type: ignore[attr-defined]
    codes = trainer.objective.codebooks["identity"].lookup(trainer.objective.rows(0)["identity"])
    chosen = choose_members(drawn.points, field.anchors(codes), field.settings, field.member_network, 24)
    return float((chosen.weights > 0).sum() / drawn.points[..., 0].numel())


def deformation(bench: Bench) -> None:
    """Time a step of the second stage, at the default batch."""
    for column, kernel, precision, captured in (
        ("fused, captured", "fused", "tf32", True),
        ("fused", "fused", "tf32", False),
        ("plain tf32, captured", "plain", "tf32", True),
        ("plain tf32", "plain", "tf32", False),
        ("plain fp32", "plain", "float32", False),
    ):
        settings = TrainExpressionConfig(
            model=ExpressionModelConfig(kernel=kernel), precision=precision, captured=captured
        )
        trainer = expression_trainer(settings, bench.device)
        with matrix_precision(precision):
            milliseconds = bench.milliseconds(trainer.step, warm=12, repeats=3 * bench.repeats)
        bench.note("deformation step, ms", column, milliseconds)
        if kernel == "fused":
            tflop = 6 * 1.075e6 * 32 * 1100 / 1e12
            bench.note_share("deformation step, rate", column, tflop, milliseconds)
        trainer._forget_captured()
    bench.note("deformation step, ms", "bar", float(_BARS["deformation step, ms"]))


def tune_deformation(bench: Bench) -> None:
    """Time the network of the second stage cut in other ways, forward and back, and the captured step of the best."""
    from nphm_core.models import dispatch

    usual = dispatch._network_shape
    found: dict["Tuning", float] = {}
    try:
        for tuning in _network_tunings():
            dispatch._network_shape = lambda *a, tuning=tuning: replace(usual(*a), tuning=tuning)
            try:
                found[tuning] = _network_milliseconds(bench)
                bench.say(f"{found[tuning]:.3f} ms forward and back: {_changes(tuning)}")
            except Exception as problem:
                bench.say(f"{_changes(tuning)}: {type(problem).__name__}: {str(problem)[:300]}")
        for tuning in sorted(found, key=found.__getitem__)[:4]:
            dispatch._network_shape = lambda *a, tuning=tuning: replace(usual(*a), tuning=tuning)
            try:
                bench.say(f"{_deformation_milliseconds(bench):.3f} ms a captured step: {_changes(tuning)}")
            except Exception as problem:
                bench.say(f"{_changes(tuning)}: {type(problem).__name__}: {str(problem)[:300]}")
    finally:
        dispatch._network_shape = usual


def _network_tunings() -> list["Tuning"]:
    from nphm_core.models.fused.network import Tuning

    changes = [
        {}, {"stages": 2}, {"stages": 4}, {"max_registers": None}, {"rows": 64, "warps": 4},
        {"columns": 64, "warps": 4}, {"columns": 64}, {"depth": 32, "stages": 4},
        {"depth": 128, "stages": 2}, {"pass_columns": 32}, {"pass_columns": 128}, {"pass_warps": 8},
    ]  # fmt: skip
    return [Tuning(**one) for one in changes]


def _changes(tuning: "Tuning") -> str:
    """Give what is not as usual."""
    usual = type(tuning)()
    named = {f.name: getattr(tuning, f.name) for f in fields(tuning)}
    return ", ".join(f"{k} {v}" for k, v in named.items() if v != getattr(usual, k)) or "as it is"


def _network_milliseconds(bench: Bench) -> float:
    """Time the network alone, as a graph."""
    field = untrained_head(bench.device, expression=ExpressionModelConfig(kernel="fused")).expression
    assert field is not None
    points = 0.5 * torch.randn(32, 1100, 3, device=bench.device)
    codes = [torch.randn(32, n, device=bench.device, requires_grad=True) for n in (field.n_condition, field.n_code)]
    by_offset = torch.randn_like(points)
    leaves = [*codes, *field.networks.parameters()]

    def call() -> None:
        torch.autograd.grad(field.deformation(points, *codes), leaves, by_offset)

    with matrix_precision("tf32"):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        return bench.captured_milliseconds(call)


def _deformation_milliseconds(bench: Bench) -> float:
    settings = TrainExpressionConfig(model=ExpressionModelConfig(kernel="fused"), precision="tf32", captured=True)
    trainer = expression_trainer(settings, bench.device)
    try:
        with matrix_precision("tf32"):
            return bench.milliseconds(trainer.step, warm=12, repeats=3 * bench.repeats)
    finally:
        trainer._forget_captured()


def curve(bench: Bench) -> None:
    """Compare the loss of captured kernels with plain float32 over many steps; the spread is that of seeds."""
    ends: dict[str, list[float]] = {}
    for kernel, precision in (("plain", "float32"), ("fused", "tf32")):
        for seed in (0, 1):
            settings = TrainIdentityConfig(model=IdentityModelConfig(kernel=kernel), precision=precision, captured=True)
            trainer = identity_trainer(settings, bench.device, seed=seed)
            with matrix_precision(precision):
                losses = torch.stack([trainer.step(step)["total"].detach().clone() for step in range(N_CURVE)]).tolist()
            means = [statistics.fmean(losses[k : k + N_SMOOTH]) for k in range(0, N_CURVE, N_SMOOTH)]
            bench.say(f"{kernel} {precision}, seed {seed}: " + " ".join(f"{m:.4f}" for m in means))
            ends.setdefault(kernel, []).append(means[-1])
            trainer._forget_captured()
    spread = max(abs(a - b) for a in ends["plain"] for b in ends["plain"])
    apart = abs(statistics.fmean(ends["fused"]) - statistics.fmean(ends["plain"]))
    for kernel, values in ends.items():
        bench.note(f"loss after {N_CURVE} steps", kernel, " ".join(f"{v:.4f}" for v in values))
    bench.notes.append(f"loss: kernels and float32 are {apart:.4f} apart, seeds {spread:.4f}")


def profile(bench: Bench) -> None:
    """Print what a step of each stage spends its time on, kernel by kernel."""
    from torch.profiler import ProfilerActivity

    made = (
        identity_trainer(
            TrainIdentityConfig(model=IdentityModelConfig(kernel="fused"), precision="tf32", captured=True),
            bench.device,
        ),
        expression_trainer(
            TrainExpressionConfig(model=ExpressionModelConfig(kernel="fused"), precision="tf32", captured=True),
            bench.device,
        ),
    )
    for trainer in made:
        with matrix_precision("tf32"):
            for step in range(12):
                trainer.step(step)
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as found:
                for step in range(12, 22):
                    trainer.step(step)
                torch.cuda.synchronize()
        rows = sorted(found.key_averages(), key=lambda row: -row.device_time_total)
        bench.say(f"{sum(row.device_time_total for row in rows) / 1e4:.3f} ms a step in kernels")
        for row in rows[:32]:
            bench.say(f"{row.device_time_total / 1e4:8.4f} ms {row.count / 10:6.1f} x {row.key[:90]}")
        trainer._forget_captured()
