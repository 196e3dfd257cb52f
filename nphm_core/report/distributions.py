"""Every number that stages report, over all scans: histograms, and the scans that lie far out.

Far out is what lies more than three times the width of the middle half beyond it (Tukey 1977).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

_N_BINS = 40
_FENCE = 3.0
_MAX_LISTED = 30
_UNITS = ("mm2", "mm", "px", "share", "degrees", "s")
# What the table says, and what is in the delivered unit, which differs from scan to scan.
_SKIPPED = ("row", "area", "median_edge")


@dataclass(frozen=True)
class StageNumber:
    """One number that a stage reports, for all scans of a gallery."""

    stage: str
    name: str
    values: Float[ndarray, " n_scans"]
    """NaN where a scan has none."""

    @property
    def key(self) -> str:
        """`stage.name`."""
        return f"{self.stage}.{self.name}"

    @property
    def unit(self) -> str:
        """The unit that the name ends in; empty for counts."""
        return unit_of(self.name)

    @property
    def label(self) -> str:
        """The name in words."""
        words = self.name.removesuffix(f"_{self.unit}") if self.unit not in ("", "share") else self.name
        words = re.sub(r"^(statistics\.)?", "", words).replace("_", " ").replace(".", ": ")
        return re.sub(r"\bn (?=\w)", "number of ", words)


def unit_of(name: str) -> str:
    """Give the unit that a name ends in."""
    parts = name.replace(".", "_").split("_")
    return next((unit for unit in _UNITS if unit in parts[1:]), "")


def numbers_of(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Give the numbers of a record's metrics by name, those of an inner mapping as `outer.inner`."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if name in _SKIPPED:
            continue
        if isinstance(value, Mapping):
            found |= numbers_of(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


def stage_numbers(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[StageNumber]:
    """Collect the numbers of all stages' records, given in the order of the scans; those that never differ are left."""
    out = []
    for stage, of_stage in records.items():
        found = [numbers_of(record.get("metrics") or {}) for record in of_stage]
        for name in dict.fromkeys(name for numbers in found for name in numbers):
            values = np.array([numbers.get(name, np.nan) for numbers in found])
            finite = values[np.isfinite(values)]
            if len(finite) and (len(finite) < 2 or np.ptp(finite) > 0):
                out.append(StageNumber(stage, name, values))
    return out


def distribution(number: StageNumber, scan_ids: Sequence[str]) -> dict[str, Any]:
    """Give the histogram of a number, its quartiles, and the scans that are far out, the farthest first."""
    known = np.flatnonzero(np.isfinite(number.values))
    values = number.values[known]
    low, high = float(values.min()), float(values.max())
    q1, median, q3 = (float(q) for q in np.percentile(values, (25, 50, 75)))
    is_far = _is_far(values, q1, q3)
    bins, edges = np.histogram(values, bins=_N_BINS, range=(low, high if high > low else low + 1))
    n_far_in_bin, _ = np.histogram(values[is_far], bins=edges)
    far = sorted(np.flatnonzero(is_far), key=lambda k: -abs(values[k] - median))[:_MAX_LISTED]
    rounded = {name: _short(value) for name, value in
               {"low": low, "high": high, "q1": q1, "median": median, "q3": q3}.items()}  # fmt: skip
    return {
        "key": number.key,
        "label": number.label,
        "unit": number.unit,
        "n": len(values),
        "n_far": int(is_far.sum()),
        "bins": bins.tolist(),
        "far_bins": [int(n > 0 and n == total) for n, total in zip(n_far_in_bin, bins, strict=True)],
        "far": [[scan_ids[known[k]], _short(float(values[k]))] for k in far],
    } | rounded


def stage_counts(of_stage: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count what a stage came to over all scans."""
    return dict(sorted(Counter(str(record.get("status", "not run")) for record in of_stage).items()))


def _is_far(values: Float[ndarray, " n"], q1: float, q3: float) -> Bool[ndarray, " n"]:
    # Where most scans have the same number, the middle half has no width and every other one would be far out.
    width = (q3 - q1) or float(values.std())
    return (values < q1 - _FENCE * width) | (values > q3 + _FENCE * width)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
