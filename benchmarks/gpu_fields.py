"""Parts of the GPU benchmark that ask fields: queries, meshes, fits."""

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_steps import MACS_A_ROW
from benchmarks.gpu_table import Bench
from benchmarks.made_heads import CENTRE, RADII, untrained_head
from nphm_core.config import FitConfig
from nphm_core.meshing.surface import Extraction, Surface, extract_surface
from nphm_core.models.checkpoint import from_pretrained
from nphm_core.models.identity_field import EnsembleField
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.training.loop import matrix_precision

N_QUERIES = 2**20
_BARS = {"queries, M points/s": 60, "mesh of 256 cubed, ms": 50, "mesh of 512 cubed, ms": 300, "fit of a scan, s": 3}


def head_of(bench: Bench) -> NeuralHead:
    """Read the model, or make one with random weights."""
    head = untrained_head(bench.device) if bench.model is None else from_pretrained(bench.model, device="cuda")
    return head.requires_grad_(False)


def with_kernel(field: EnsembleField, kernel: str) -> None:
    """Choose how a field is evaluated."""
    field.settings = field.settings.model_copy(update={"kernel": kernel})


def points_near(head: NeuralHead, n: int, seed: int = 0) -> Tensor:
    """Give points around the surface of a made-up head."""
    generator = torch.Generator("cuda").manual_seed(seed)
    direction = torch.randn(n, 3, generator=generator, device="cuda")
    direction = torch.nn.functional.normalize(direction, dim=1)
    out = 1 + 0.05 * torch.randn(n, 1, generator=generator, device="cuda")
    centre, radii = (torch.tensor(v, device="cuda", dtype=torch.float32) for v in (CENTRE, RADII))
    return centre + radii * direction * out


@torch.no_grad()
def queries(bench: Bench) -> None:
    """Count the points a second that the field of one head answers."""
    head, quantity = head_of(bench), "queries, M points/s"
    field = head.identity
    assert isinstance(field, EnsembleField)
    code = head.identity_prior.mean[None]
    sets = [points_near(head, N_QUERIES, seed)[None] for seed in range(3)]
    members = _members_a_point(field, code, sets[0][:, : 2**14])
    for column, kernel, precision in (
        ("fused", "fused", "tf32"),
        ("plain tf32", "plain", "tf32"),
        ("plain fp32", "plain", "float32"),
    ):
        with_kernel(field, kernel)
        part = 2**17 if kernel == "plain" else N_QUERIES
        with bench.peak_gb("queries, GB", column), matrix_precision(precision):
            ms = bench.milliseconds(lambda k, part=part: [field.sdf(p, code) for p in sets[k % 3].split(part, 1)])
        bench.note(quantity, column, N_QUERIES / ms / 1000)
        if kernel == "fused":
            bench.note_share("queries, rate", column, 2 * MACS_A_ROW * members * N_QUERIES / 1e12, ms)
    bench.say(f"{members:.2f} members a point")
    bench.note(quantity, "bar", float(_BARS[quantity]))


def _members_a_point(field: EnsembleField, code: Tensor, points: Tensor) -> float:
    from nphm_core.models.blend import choose_members

    chosen = choose_members(points, field.anchors(code), field.settings, field.member_network, 24)
    return float((chosen.weights > 0).sum() / points[..., 0].numel())


def tune(bench: Bench) -> None:
    """Time the kernels cut in other ways."""
    _tune_values(bench)
    _tune_steps(bench)


def _tune_steps(bench: Bench) -> None:
    from nphm_core.models import dispatch
    from nphm_core.models.fused.weights import Tuning

    field = untrained_head(bench.device).identity
    assert isinstance(field, EnsembleField)
    with_kernel(field, "fused")
    points = points_near(untrained_head(bench.device), 32 * 1693).view(32, 1693, 3)
    code = 0.05 * torch.randn(32, field.n_code, device=bench.device)
    usual = dispatch._spec
    for tuning in (
        Tuning(),
        Tuning(stages=4),
        Tuning(depth=64),
        Tuning(warps=4),
        Tuning(columns=256),
        Tuning(rows=128),
    ):
        dispatch._spec = lambda field, tuning=tuning: replace(usual(field), tuning=tuning)

        try:
            bench.say(f"{tuning}: {_captured_milliseconds(bench, field, points, code):.3f} ms forward and backward")
        except Exception as problem:
            bench.say(f"{tuning}: {type(problem).__name__}: {str(problem)[:300]}")
    dispatch._spec = usual


def _captured_milliseconds(bench: Bench, field: EnsembleField, points: Tensor, code: Tensor) -> float:
    """Time values and gradients with their way back, as a graph."""

    def call() -> None:
        sdf, gradient = field.sdf_and_gradient(points, code)
        (sdf.abs().mean() + (gradient.norm(dim=2) - 1).abs().mean()).backward()

    field.room.release()
    call()
    field.room.reserve()
    call()
    found = bench.captured_milliseconds(call)
    field.room.release()
    return found


@torch.no_grad()
def _tune_values(bench: Bench) -> None:
    from nphm_core.models import dispatch
    from nphm_core.models.fused import ensemble
    from nphm_core.models.fused.weights import Tuning

    head = untrained_head(bench.device)
    field = head.identity
    code, points = head.identity_prior.mean[None], points_near(head, 2**18)[None]
    anchors, codes = dispatch._prepared(field, code)
    weights, spec = dispatch._kept(field).padded, dispatch._spec(field)
    flips = field.member_flip[:, 0].contiguous()
    twin = copy.deepcopy(field).double()
    with_kernel(twin, "plain")
    exact = torch.cat([twin.sdf(part, code.double()) for part in points.double().split(2**16, 1)], dim=1)
    for tuning in (
        Tuning(), Tuning(depth=64), Tuning(warps=4), Tuning(rows=128), Tuning(at_once=True, stages=2),
        Tuning(rows=128, at_once=True, stages=2), Tuning(warps=4, at_once=True, stages=2),
    ):  # fmt: skip
        call = lambda _, tuning=tuning: ensemble.ensemble_values(  # noqa: E731
            points, anchors, flips, codes.first, codes.skip, weights, spec, tuning
        )
        try:
            error = float((call(0).double() - exact).norm() / exact.norm())
            ms = bench.milliseconds(call, repeats=10)
        except Exception as problem:
            bench.say(f"{tuning}: {type(problem).__name__}: {str(problem)[:300]}")
            continue
        bench.say(f"{tuning}: {ms:.3f} ms, {len(points[0]) / ms / 1000:.1f} M points/s, error {error:.1e}")


@torch.no_grad()
def meshes(bench: Bench) -> None:
    """Time the extraction of surfaces, and compare with the dense grid's."""
    head = head_of(bench)
    field = head.identity
    assert isinstance(field, EnsembleField)
    for resolution in (256, 512):
        quantity = f"mesh of {resolution} cubed, ms"
        for column, kernel in (("fused", "fused"), ("plain tf32", "plain")):
            with_kernel(field, kernel)
            sdf = surface_of(head, bench)
            how = Extraction(resolution)
            with bench.peak_gb(f"mesh of {resolution} cubed, GB", column), matrix_precision("tf32"):
                seconds = []
                for _ in range(3 if kernel == "plain" else bench.repeats // 2):
                    torch.cuda.synchronize()
                    started = time.perf_counter()
                    found = extract_surface(sdf, how, device=bench.device)
                    seconds.append(time.perf_counter() - started)
            bench.note(quantity, column, 1000 * float(np.median(seconds)))
            bench.say(f"{found.n_evaluations:,} evaluations, {found.mesh.n_faces:,} triangles")
            if resolution == 256 and kernel == "fused":
                _compare_dense(bench, sdf, how, found)
        bench.note(quantity, "bar", float(_BARS[quantity]))


@torch.no_grad()
def profile_mesh(bench: Bench) -> None:
    """Print what an extraction spends its time on, on the device and in launching."""
    head = head_of(bench)
    assert isinstance(head.identity, EnsembleField)
    with_kernel(head.identity, "fused")
    sdf, how = surface_of(head, bench), Extraction(256)
    for _ in range(2):
        extract_surface(sdf, how, device=bench.device)
    torch.cuda.synchronize()
    started = time.perf_counter()
    extract_surface(sdf, how, device=bench.device)
    bench.say(f"{1000 * (time.perf_counter() - started):.1f} ms an extraction, which is profiled now")
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        extract_surface(sdf, how, device=bench.device)
    rows = found.key_averages()
    bench.say(f"{sum(row.self_device_time_total for row in rows) / 1e3:.1f} ms on the device")
    for what in ("self_device_time_total", "self_cpu_time_total"):
        for row in sorted(rows, key=lambda row: -getattr(row, what))[:24]:
            bench.say(f"{what} {getattr(row, what) / 1e3:8.3f} ms {row.count:6d} x {row.key[:80]}")


def _compare_dense(bench: Bench, sdf: Callable[[Tensor], Tensor], how: Extraction, found: Surface) -> None:
    dense = extract_surface(sdf, replace(how, coarse_resolution=how.resolution), device=bench.device)
    same = np.array_equal(found.mesh.faces, dense.mesh.faces)
    apart = np.abs(found.mesh.vertices - dense.mesh.vertices).max() if same else float("nan")
    bench.notes.append(
        f"{how.resolution} cubed: triangles {'equal' if same else 'NOT EQUAL'} to the dense grid's, vertices "
        f"{apart * MM_PER_CANONICAL_UNIT:.1e} mm apart at most"
    )


def surface_of(head: NeuralHead, bench: Bench) -> Callable[[Tensor], Tensor]:
    """Give a field with a head's surface; random weights only ripple an ellipsoid's."""
    field, code = head.identity, head.identity_prior.mean[None]
    if bench.model is not None:
        return lambda points: field.sdf(points[None], code)[0]
    centre, radii = (torch.tensor(v, device=bench.device, dtype=torch.float32) for v in (CENTRE, RADII))

    def rippled(points: Tensor) -> Tensor:
        return (((points - centre) / radii).norm(dim=1) - 1) * 0.38 + 0.1 * field.sdf(points[None], code)[0]

    return rippled


def fits(bench: Bench) -> None:
    """Time the fit of one scan of 5,000 points from the default start."""
    # Only here: a machine that is asked for nothing else need not have numba.
    from nphm_core.fitting.fit import fit_heads
    from nphm_core.fitting.observations import Observation

    head = head_of(bench)
    settings = FitConfig(n_points=5000)
    if bench.model is None:
        points = points_near(head, 5000).cpu().numpy()
        observation = Observation(250 * points, None, mm_per_unit=1.0)
    else:
        from benchmarks.fit_optimisers import observed

        observation = observed(head, 1, 5000, np.random.default_rng(0))[0][0].observation
    # A fit takes plain operations, whatever the settings say.
    for column, precision in (("plain tf32", "tf32"), ("plain fp32", "float32")):
        for _ in range(2):
            generator = torch.Generator("cuda").manual_seed(0)
            with matrix_precision(precision), _phases(bench):
                torch.cuda.synchronize()
                started = time.perf_counter()
                found = fit_heads(head, [(observation,)], settings, generator=generator)[0]
            seconds = time.perf_counter() - started
            bench.say(f"{seconds:.2f} s, median residual {found.residual_mm[0]:.3f} mm, {len(found.energies)} steps")
        bench.note("fit of a scan, s", column, seconds)
        bench.note("fit of a scan, median residual mm", column, found.residual_mm[0])
    bench.note("fit of a scan, s", "bar", float(_BARS["fit of a scan, s"]))


@contextmanager
def _phases(bench: Bench) -> Iterator[None]:
    """Print what a fit logs of its phases: they end with values on the host, so their times are the device's too."""

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bench.say("    " + record.getMessage())

    log, said = logging.getLogger("nphm_core.fitting"), Said()
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(said)
    try:
        yield
    finally:
        log.removeHandler(said)
        log.setLevel(level)
