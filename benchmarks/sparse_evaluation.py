"""How far the identity field with few members is from the dense one, and how much faster, in one run.

    python -m benchmarks.sparse_evaluation --model DIR [--points 1000000] [--device cuda]

Points are uniform in the meshing box of NPHM. The stated bound of a form is, at each point, the weight of the members
it leaves out times the spread of the members' values there; the table tells whether it held at every point. Errors in
mm; share of the time of the dense form. Of a model that `--released` names it takes identity file and mean anchors.
All forms are plain operations in float32, whose rounding is below the 1e-3 mm that the bound is given. On a GPU a line
says what the fused kernels' half precision products add to that: their distance from the plain form of default weights.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from nphm_core.meshing.grid import HEAD_BOX
from nphm_core.models.blend import choose_members
from nphm_core.models.checkpoint import from_pretrained
from nphm_core.models.identity_field import EnsembleField
from nphm_core.models.released import read_released
from nphm_core.spaces import MM_PER_CANONICAL_UNIT

FORMS = {
    "4 nearest": {"n_nearest": 4},
    "8 nearest": {"n_nearest": 8},
    "12 nearest": {"n_nearest": 12},
    "weight above 1e-3": {"n_nearest": 0, "min_weight": 1e-3},
    "weight above 1e-4": {"n_nearest": 0, "min_weight": 1e-4},
}


def main() -> None:
    """Run the comparison and print the table."""
    options = _parser().parse_args()
    field, codes = _model(options)
    default = field.settings
    field.settings = default.model_copy(update={"n_nearest": 0, "min_weight": 0.0, "kernel": "plain"})
    code = codes[:1] if len(codes) else torch.zeros(1, field.n_code, device=options.device)
    points = _points(options.points, options.device)
    dense, spread, dense_s = _dense(field, points, code, options.chunk)
    rms_mm = float(dense.square().mean().sqrt()) * MM_PER_CANONICAL_UNIT
    print(f"{options.points} points, root mean square distance {rms_mm:.1f} mm, blend {field.settings.blend}")
    print(f"{'form':18} {'members':>8} {'mean mm':>9} {'99.9 % mm':>10} {'max mm':>8} {'bound held':>11} {'time':>6}")
    print(f"{'dense':18} {40:8.1f} {0:9.4f} {0:10.4f} {0:8.3f} {'-':>11} {1:6.3f}")
    for name, form in FORMS.items():
        _report(name, form, field, points, code, dense, spread, dense_s, options.chunk)
    if points.is_cuda:
        _report_fused(field, default, points, code, dense, options.chunk)
    print("near the surface (5 mm) only:")
    near = dense.abs() < 5 / MM_PER_CANONICAL_UNIT
    for name, form in FORMS.items():
        _report(name, form, field, points[near], code, dense[near], spread[near], dense_s * float(near.float().mean()),
                options.chunk)  # fmt: skip


def _report_fused(field, default, points, code, dense, chunk) -> None:
    """Print how far fused kernels are from plain operations that leave out the same members: arithmetic alone."""
    values = {}
    for kernel in ("plain", "fused"):
        field.settings = default.model_copy(update={"n_nearest": 0, "kernel": kernel})
        values[kernel] = _sparse(field, points, code, chunk, field.settings)[0]
    error_mm = ((values["fused"] - values["plain"]).abs() * MM_PER_CANONICAL_UNIT).cpu().numpy()
    near_mm = error_mm[(dense.abs() < 5 / MM_PER_CANONICAL_UNIT).cpu().numpy()]
    print(
        "arithmetic of the fused kernels (what a GPU takes by default), mm from the plain form with the same members:"
    )
    for name, error in (("everywhere", error_mm), ("near the surface", near_mm)):
        print(f"{name:18} mean {error.mean():.1e}, 99.9 % {np.percentile(error, 99.9):.1e}, max {error.max():.1e}")
    field.settings = default.model_copy(update={"n_nearest": 0, "min_weight": 0.0, "kernel": "plain"})


def _report(name, form, field, points, code, dense, spread, dense_s, chunk) -> None:
    full = field.settings
    field.settings = full.model_copy(update=form)
    values, left_out, n_members, seconds = _sparse(field, points, code, chunk, full)
    field.settings = full
    error_mm = ((values - dense).abs() * MM_PER_CANONICAL_UNIT).cpu().numpy()
    bound_mm = (left_out * spread * MM_PER_CANONICAL_UNIT + 1e-3).cpu().numpy()
    held = float((error_mm <= bound_mm).mean())
    print(f"{name:18} {n_members:8.1f} {error_mm.mean():9.4f} {np.percentile(error_mm, 99.9):10.4f} "
          f"{error_mm.max():8.3f} {held:11.6f} {seconds / dense_s:6.3f}")  # fmt: skip


@torch.no_grad()
def _dense(field, points, code, chunk):
    """Give blended values, the spread of the members' values, and the seconds of blending alone."""
    values, spreads, seconds = [], [], 0.0
    for part in points.split(chunk):
        _wait(part)
        started = time.perf_counter()
        values.append(field.sdf(part[None], code)[0])
        _wait(part)
        seconds += time.perf_counter() - started
        spreads.append(_spread(field, part, code))
    return torch.cat(values), torch.cat(spreads), seconds


@torch.no_grad()
def _sparse(field, points, code, chunk, full):
    values, left_out, rows, seconds = [], [], 0, 0.0
    for part in points.split(chunk):
        _wait(part)
        started = time.perf_counter()
        values.append(field.sdf(part[None], code)[0])
        _wait(part)
        seconds += time.perf_counter() - started
        anchors, network = field.anchors(code), field.member_network
        chosen = choose_members(part[None], anchors, field.settings, network, field.networks.n_networks)
        everything = choose_members(part[None], anchors, full, network, field.networks.n_networks)
        kept = torch.zeros_like(everything.weights)
        real = chosen.slot < chosen.weights.numel()
        kept.view(-1)[chosen.point[real] * kept.shape[1] + chosen.member[real]] = 1
        left_out.append((everything.weights * (1 - kept)).sum(1))
        rows += int(real.sum())
    return torch.cat(values), torch.cat(left_out), rows / len(points), seconds


def _spread(field: EnsembleField, points, code):
    """Give the difference between the largest and the smallest member's value at each point."""
    everything = choose_members(
        points[None], field.anchors(code), field.settings, field.member_network, field.networks.n_networks
    )
    members, place, folded, groups = field._prepare(points[None], code, None)
    values = field.networks.values(place, folded, groups)[:, 0]
    table = torch.empty(everything.weights.numel() + 1, device=points.device)
    table[members.slot] = values
    table = table[:-1].view(everything.weights.shape)
    return table.amax(1) - table.amin(1)


def _points(n: int, device: str) -> torch.Tensor:
    low, high = torch.tensor([HEAD_BOX.low, HEAD_BOX.high])
    uniform = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    return (low + uniform * (high - low)).to(device)


def _model(options) -> tuple[EnsembleField, torch.Tensor]:
    if options.released:
        identity, anchors = options.released
        head = read_released(identity, None, torch.from_numpy(np.load(anchors)).float()).to(options.device)
    else:
        head = from_pretrained(options.model, device=options.device)
    return head.identity, head.identity_codes


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, help="folder of a trained model")
    which.add_argument("--released", type=Path, nargs=2, metavar=("IDENTITY", "ANCHORS"), help="released files")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=4096, help="points evaluated at once")
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    main()
