"""Units: the scans that one job works on, and the file that Snakemake tracks for them.

A unit is one scan (`S012/smile`), or up to so many scans of one subject (`S012`; `S012.1`, `S012.2`, ... where it has
more). Of one scan Snakemake tracks the record itself, of several a small file in the subject's folder that holds what
came of each. Which scans share a unit depends on the scan table and on `scans_per_job` alone.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nphm_core.stages import STAGES, record_path

ALONE_UP_TO, FEW_UP_TO = 30, 200
"""Tables of up to so many scans have one scan a job, and a few: in small ones all cores shall have work."""
FEW_AT_ONCE, AT_ONCE = 5, 25
"""Scans of a job in middle tables, and in large ones.

In large ones a start is a hundredth of the work, and a subject mostly one unit.
"""
_RECORD = re.compile(rf"scans/([\w-]+(?:/[\w-]+|\.\d+)?)/stages/({'|'.join(STAGES)})\.json$")


class Units:
    """All units of a table."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]], results: str, at_once: int) -> None:
        """Take the facts of each scan's row, and how many scans a job works on at most."""
        self._results = results
        self.scans = _units(rows, at_once)
        self._of = {scan_id: unit for unit, scans in self.scans.items() for scan_id in scans}

    def of(self, scan_id: str) -> str:
        """Give the unit of a scan."""
        return self._of[scan_id]

    @property
    def several(self) -> frozenset[str]:
        """The units that are no scan."""
        return frozenset(unit for unit in self.scans if "/" not in unit)

    @property
    def of_many(self) -> dict[str, str]:
        """The unit of each scan whose unit is no scan."""
        return {scan_id: unit for scan_id, unit in self._of.items() if scan_id != unit}

    def tracked(self, stage: str, unit: str) -> str:
        """Give the file that Snakemake tracks of a stage and unit."""
        return record_path(self._results, unit, stage)

    def scans_of(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Give scan and stage of all that tracked files among names of files tell of."""
        return [(scan_id, stage) for unit, stage in self.asked(names) for scan_id in self.scans.get(unit, ())]

    def asked(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Give unit and stage of each tracked file among names of files."""
        found = (_RECORD.search(str(Path(name))) for name in names)
        return [(match[1], match[2]) for match in found if match]


def scans_at_once(setting: int, n_scans: int, asked: Iterable[str]) -> int:
    """Give how many scans a job works on: what the config says, unless files of other units are asked for by name."""
    units = [match[1] for name in asked if (match := _RECORD.search(str(Path(name))))]
    if any("/" in unit for unit in units):
        return 1
    chosen = setting or (1 if n_scans <= ALONE_UP_TO else FEW_AT_ONCE if n_scans <= FEW_UP_TO else AT_ONCE)
    return AT_ONCE if units and chosen == 1 else chosen


def _units(rows: Mapping[str, Mapping[str, Any]], at_once: int) -> dict[str, list[str]]:
    if at_once == 1:
        return {scan_id: [scan_id] for scan_id in rows}
    subjects: dict[str, list[str]] = {}
    for scan_id, row in rows.items():
        subjects.setdefault(row["subject"], []).append(scan_id)
    units = {}
    for subject, scans in subjects.items():
        first = [rows[scans[0]].get(f"{role}_scan") for role in ("identity", "canonical")]
        # Those that the subject's others read come first.
        scans = sorted(scans, key=lambda scan_id: first.index(scan_id) if scan_id in first else len(first))
        parts = [scans[k : k + at_once] for k in range(0, len(scans), at_once)]
        names = [subject] if len(parts) == 1 else [f"{subject}.{k + 1}" for k in range(len(parts))]
        units |= dict(zip(names, parts, strict=True))
    return units
