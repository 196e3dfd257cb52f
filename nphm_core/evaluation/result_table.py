"""Tables of many measured fits: one line a fit, and medians and means of groups of them.

A fit that could not be measured is a line like any other, with its reason; a summary counts it, names it, and says of
each number how many fits it rests on where that is not all of them. The same rows give the same bytes.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

HEADLINE = ("chamfer_l1_mm", "chamfer_l2_mm2", "normal_consistency", "f_score_1mm", "f_score_5mm")
"""The measures that the literature compares."""

_DIGITS = 4


@dataclass(frozen=True)
class ResultRow:
    """One measured fit."""

    labels: Mapping[str, str]
    """What was fitted with what, in the order of the columns: model, subject, expression, noise, ..."""
    measures: Mapping[str, float | None] = field(default_factory=dict)
    """By full name, as `FitMeasures.columns` gives them; empty for a fit that does not exist."""
    failure: str = ""
    """Why there is nothing to measure, or not everything; empty for a measured fit."""


@dataclass(frozen=True)
class Average:
    """One measure over a group."""

    n: int
    """Rows that have it."""
    median: float | None
    mean: float | None


@dataclass(frozen=True)
class GroupSummary:
    """The rows that share their labels."""

    labels: tuple[str, ...]
    n_rows: int
    n_failed: int
    averages: dict[str, Average]


def result_tsv(rows: Sequence[ResultRow]) -> str:
    """Give the table of all fits, with a header; a number that does not exist is an empty cell."""
    labels, measures = _columns(rows)
    lines = ["\t".join([*labels, *measures, "failure"])]
    for row in rows:
        cells = [row.labels.get(name, "") for name in labels]
        cells += [_number(row.measures.get(name), "") for name in measures]
        lines.append("\t".join(" ".join(cell.split()) for cell in [*cells, row.failure]))
    return "\n".join(lines) + "\n"


def summarise(rows: Sequence[ResultRow], by: Sequence[str], measures: Sequence[str]) -> list[GroupSummary]:
    """Average groups of rows; groups come in the order of their first rows."""
    groups: dict[tuple[str, ...], list[ResultRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row.labels.get(name, "") for name in by), []).append(row)
    return [
        GroupSummary(
            labels,
            len(members),
            sum(bool(row.failure) for row in members),
            {name: _average([row.measures.get(name) for row in members]) for name in measures},
        )
        for labels, members in groups.items()
    ]


def summary_markdown(
    rows: Sequence[ResultRow],
    by: Sequence[str],
    *,
    statistic: Literal["median", "mean"] = "median",
    measures: Sequence[str] = HEADLINE,
) -> str:
    """Give a table in Markdown: for each group a line a protocol and region, a column a measure.

    A number that rests on fewer fits than the group has is followed by how many. Failed fits are in `failure_list`.
    """
    places = list(dict.fromkeys(name.rpartition(".")[0] for row in rows for name in row.measures))
    full = [f"{place}.{name}" for place in places for name in measures]
    table = [[*by, "measured", "fits", "failed", *(f"{name}, {statistic}" for name in measures)]]
    for group in summarise(rows, by, full):
        counts = [str(group.n_rows), str(group.n_failed)]
        for place in places or ["nothing"]:
            numbers = [_cell(group, f"{place}.{name}", statistic) for name in measures]
            table.append([*group.labels, place, *counts, *numbers])
    width = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True)) + " |" for line in table]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in width) + "|")
    return "\n".join(lines) + "\n"


def failure_list(rows: Sequence[ResultRow]) -> str:
    """Say how many fits failed, and of each of them why."""
    failed = [row for row in rows if row.failure]
    if not failed:
        return f"all {len(rows)} fits were measured\n"
    lines = [f"{len(failed)} of {len(rows)} fits failed:"]
    lines += [f"- {' '.join(row.labels.values())}: {' '.join(row.failure.split())}" for row in failed]
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[ResultRow]) -> tuple[list[str], list[str]]:
    labels = list(dict.fromkeys(name for row in rows for name in row.labels))
    return labels, list(dict.fromkeys(name for row in rows for name in row.measures))


def _average(values: Sequence[float | None]) -> Average:
    known = [value for value in values if value is not None]
    if not known:
        return Average(0, None, None)
    return Average(len(known), statistics.median(known), statistics.fmean(known))


def _cell(group: GroupSummary, name: str, statistic: str) -> str:
    average = group.averages.get(name, Average(0, None, None))
    text = _number(getattr(average, statistic), "-")
    return text if average.n in (0, group.n_rows) else f"{text} (of {average.n})"


def _number(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.{_DIGITS}f}"
