"""What a run costs, in words: scans for each stage, hours, disk, and who is left out and why.

Times are CPU seconds of a stage as a process of its own, imports included, on one core of an AMD EPYC, for scans of
126,000 to 194,000 triangles (`docs/reference/artifacts.md`). Your machine and scans differ: read them as an order.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nphm_core.stages import STAGES

COSTS = {
    "ingest": (1.0, 4.0),
    "render": (4.0, 3.0),
    "landmarks": (1.0, 0.3),
    "backproject": (0.5, 0.1),
    "flame_fit": (1.5, 0.3),
    "subdivide": (0.2, 3.0),
    "arap": (2.5, 3.0),
    "watertight": (1.5, 3.0),
    "sample_sdf": (3.0, 4.0),
    "sample_delta": (0.1, 1.0),
    "evaluate": (2.0, 1.3),
}
"""CPU seconds and megabytes of each stage for one scan."""

_START_S = 0.5
"""What a job costs beside its stage's work."""
_MAX_REASONS = 8
_FOR_ALL = ("summary", "verdict", "report", "training_set", "evaluate_model")
_MB_PER_GB = 1000.0


@dataclass(frozen=True)
class Forecast:
    """What is known before a run starts."""

    n_scans: int
    excluded: Sequence[tuple[str, str]]
    """Scans that are left out, each with its reason."""
    results: Path
    n_cores: Callable[[], int | None]
    models: Sequence[str] = ()
    steps: Mapping[str, str] = field(default_factory=dict)
    """What a training stage is to do, in words."""

    def seconds_of(self, stage: str) -> float:
        """Give what a stage's job usually takes."""
        return COSTS[stage][0] + _START_S

    def text(self, planned: Mapping[str, int]) -> str:
        """Say what the run will do; `planned` counts the jobs of each rule."""
        of_scans = {stage: planned[stage] for stage in STAGES if planned.get(stage)}
        lines = [*self._work(of_scans), *self._others(planned), *self._left_out()]
        return "\n".join(["What this run does:", *(f"  {line}" for line in lines)])

    def _work(self, of_scans: Mapping[str, int]) -> list[str]:
        if not of_scans:
            return [f"no stage of any of the {self.n_scans:,} scans"]
        groups: dict[int, list[str]] = {}
        for stage, n in of_scans.items():
            groups.setdefault(n, []).append(stage)
        lines = []
        for n, stages in groups.items():
            which = "all stages" if len(stages) == len(STAGES) else ", ".join(stages)
            lines.append(f"{which} of {_scans(n)}" if n < self.n_scans else f"{which} of all {_scans(n)}")
        seconds = sum(n * self.seconds_of(stage) for stage, n in of_scans.items())
        gigabytes = sum(n * COSTS[stage][1] for stage, n in of_scans.items()) / _MB_PER_GB
        cores = self.n_cores()
        wall = f", {duration_text(seconds / cores)} on {cores} cores" if cores and cores > 1 else ""
        lines.append(f"about {duration_text(seconds)} of one core{wall}, at most; {_size(gigabytes)} of results")
        free = shutil.disk_usage(_existing(self.results)).free / 1e9
        if gigabytes > free:
            lines.append(f"NOT ENOUGH DISK: {free:,.0f} GB are free where {self.results} lies")
        return lines

    def _others(self, planned: Mapping[str, int]) -> list[str]:
        told = ["the template, made once: some minutes"] if planned.get("template") else []
        told += [
            f"{stage} of {_counted(planned[stage], 'model')}, {self.steps.get(stage, '')} each"
            for stage in ("train_identity", "train_expression")
            if planned.get(stage)
        ]
        if planned.get("train_baselines"):
            told.append("train_baselines (PCA)")
        if planned.get("fit"):
            told.append(f"{_counted(planned['fit'], 'fit')} of a model to a held-out subject")
        more = [rule for rule in _FOR_ALL if planned.get(rule)]
        return told + ([f"for all scans together: {', '.join(more)}"] if more else [])

    def _left_out(self) -> list[str]:
        if not self.excluded:
            return []
        reasons = Counter(reason or "no reason given" for _, reason in self.excluded)
        first = {reason or "no reason given": scan for scan, reason in reversed(self.excluded)}
        lines = [f"left out: {_scans(len(self.excluded))}"]
        for reason, n in reasons.most_common(_MAX_REASONS):
            lines.append(f"  {reason}: {first[reason] if n == 1 else _scans(n)}")
        if len(reasons) > _MAX_REASONS:
            lines.append(f"  and {len(reasons) - _MAX_REASONS} more reasons, in summary.tsv")
        return lines


def duration_text(seconds: float) -> str:
    """Give a duration in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _scans(n: int) -> str:
    return _counted(n, "scan")


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{gigabytes * _MB_PER_GB:.0f} MB"


def _existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
