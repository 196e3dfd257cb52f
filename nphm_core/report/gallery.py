"""The quality gallery: a folder with a page for people, made of what the stages wrote of each scan.

It opens from a disk without a server or a network, so its data are scripts, cut so that a page loads what it shows: a
list of all scans in chunks, the worst first; a file for each subject; a file for each number that one may sort by.
Pictures and 3D views are copied from the scans' folders.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from nphm_core.io.files import write_text
from nphm_core.report.colour_map import error_colours
from nphm_core.report.distributions import StageNumber, distribution, stage_counts, stage_numbers
from nphm_core.report.head_3d import topology_script
from nphm_core.report.quality_tiles import SHEET_COLUMNS, SHEET_TILES

VERDICTS = ("failed", "suspicious", "ok", "excluded")
"""As the gallery orders them: the worst first."""

PICTURES = {"quality_card.webp": 1, "quality_tiles.webp": 2, "quality_3d.js": 4}
"""Files that a gallery takes from a scan's folder, and their bits in its list."""

_WEB = Path(__file__).parent / "web"
_CHUNK = 1000
_MAX_REASON = 220
_MAX_KIND = 90
_N_STOPS = 24

# Key, label, unit, and whether a low number is the bad one.
_QUALITY = (
    ("median_mm", "median distance on the face", "mm", False),
    ("p95_mm", "95 % of the face below", "mm", False),
    ("matched_share", "face that lies on the scan", "share", True),
    ("covered_share", "scan's face near the registration", "share", True),
    ("scan_median_mm", "median distance of the scan's face", "mm", False),
    ("linear_fit_mm", "median distance of the linear fit", "mm", False),
    ("landmark_mm", "landmarks, found to registered", "mm", False),
    ("folded_faces", "folded triangles on the face", "", False),
)


@dataclass(frozen=True)
class GalleryScan:
    """What a gallery tells of one scan."""

    scan_id: str
    verdict: str
    """ok, suspicious, failed or excluded."""
    stage: str
    reasons: tuple[str, ...]
    folder: Path
    """The scan's folder in the results."""
    neutral: str = ""
    unit: str = ""
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The stages' records by name."""
    regions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Distances by region, as metrics.json has them."""
    result: str = ""
    """Digest of the result, shortened: a person's verdict on another one is marked."""

    @property
    def numbers(self) -> Mapping[str, Any]:
        """The measures of the scan's table row."""
        return self.records.get("evaluate", {}).get("metrics") or {}


@dataclass(frozen=True)
class Gallery:
    """All that a gallery shows."""

    title: str
    report_id: str
    """Under which a browser keeps the verdicts: the same for every run on the same scan table."""
    scans: Sequence[GalleryScan]
    stages: Sequence[str]
    verdicts: Mapping[str, Mapping[str, str]]
    """What a person said before, by scan: `verdict`, `note`, `result`."""
    faces: Int[ndarray, "n_faces 3"] | None
    """Triangles of the 3D views; None if there are none."""
    colour_max_mm: float


def worst_first(scans: Sequence[GalleryScan]) -> list[GalleryScan]:
    """Order scans: failed, suspicious, ok, excluded; within each by reasons and by the 95th percentile."""

    def badness(scan: GalleryScan) -> tuple[int, int, float, str]:
        p95 = scan.numbers.get("p95_mm")
        return VERDICTS.index(scan.verdict), -len(scan.reasons), -(p95 if p95 is not None else np.inf), scan.scan_id

    return sorted(scans, key=badness)


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Write the gallery anew; the folder is replaced when it is complete."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(_WEB, temporary)
    scans = worst_first(gallery.scans)
    numbers = stage_numbers(
        {stage: [scan.records.get(stage, {}) for scan in scans] for stage in gallery.stages if stage != "evaluate"}
    )
    _write_data(temporary / "data", gallery, scans, numbers)
    for scan in scans:
        _take_pictures(scan, temporary / "scans" / scan.scan_id, folder / "scans" / scan.scan_id)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def reason_kind(reason: str) -> str:
    """Give a reason without its numbers and details, so that scans with the same trouble come together."""
    first = re.split(r"(?<=[a-z)])[.;:] |\n|, expected|; expected", reason)[0]
    text = re.sub(r"[-+]?\d+(?:[.,]\d+)*", "…", first)
    return text if len(text) <= _MAX_KIND else f"{text[: _MAX_KIND - 1]}…"


def _write_data(folder: Path, gallery: Gallery, scans: Sequence[GalleryScan], numbers: Sequence[StageNumber]) -> None:
    kinds = Counter(kind for scan in scans for kind in dict.fromkeys(map(reason_kind, scan.reasons)))
    names = [kind for kind, _ in kinds.most_common()]
    rows = [_row(scan, {kind: k for k, kind in enumerate(names)}) for scan in scans]
    n_chunks = max(1, -(-len(rows) // _CHUNK))
    for k in range(n_chunks):
        _write_call(folder / f"rows-{k}.js", "setRows", rows[k * _CHUNK : (k + 1) * _CHUNK])
    by_subject: dict[str, dict[str, Any]] = {}
    for scan in scans:
        subject, expression = scan.scan_id.split("/")
        by_subject.setdefault(subject, {})[expression] = _details(scan, gallery.stages)
    for subject, details in by_subject.items():
        _write_call(folder / "subjects" / f"{subject}.js", "setSubject", subject, details)
    for number in numbers:
        values = [float(f"{value:.5g}") if np.isfinite(value) else None for value in number.values]
        _write_call(folder / "metrics" / f"{number.key}.js", "setMetric", number.key, values)
    _write_call(folder / "distributions.js", "setDistributions", _distributions(gallery, scans, numbers))
    if gallery.faces is not None:
        write_text(folder / "topology.js", topology_script(gallery.faces))
    _write_call(folder / "index.js", "setIndex", _index(gallery, scans, numbers, kinds, n_chunks))


def _index(
    gallery: Gallery, scans: Sequence[GalleryScan], numbers: Sequence[StageNumber], kinds: Counter[str], n_chunks: int
) -> dict[str, Any]:
    verdicts, blamed = Counter(scan.verdict for scan in scans), Counter(scan.stage for scan in scans if scan.stage)
    known = {scan.scan_id for scan in scans}
    colours = error_colours()[np.linspace(0, 255, _N_STOPS).round().astype(int)]
    quality = [{"key": key, "label": label, "unit": unit, "low_is_bad": low} for key, label, unit, low in _QUALITY]
    more = [
        {
            "key": number.key, "label": number.label, "unit": number.unit, "stage": number.stage, "file": number.key,
            "low_is_bad": number.unit == "share",
        }
        for number in numbers
    ]  # fmt: skip
    return {
        "title": gallery.title,
        "report_id": gallery.report_id,
        "n": len(scans),
        "n_chunks": n_chunks,
        "columns": ["id", "verdict", "stage", "reason", "kinds", "neutral", "unit", "pictures", "result",
                    *(key for key, *_ in _QUALITY)],
        "metrics": quality + more,
        "stages": list(gallery.stages),
        "counts": {name: verdicts[name] for name in VERDICTS},
        "blamed": [[stage, blamed[stage]] for stage in (*gallery.stages, *sorted(set(blamed) - {*gallery.stages}))
                   if blamed[stage]],
        "kinds": kinds.most_common(),
        "colours": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colours],
        "map": colours.tolist(),
        "colour_max_mm": gallery.colour_max_mm,
        "sheet": {"columns": SHEET_COLUMNS, "tiles": list(SHEET_TILES)},
        "verdicts": {scan: dict(said) for scan, said in gallery.verdicts.items() if scan in known},
    }  # fmt: skip


def _row(scan: GalleryScan, kinds: Mapping[str, int]) -> list[Any]:
    pictures = sum(bit for name, bit in PICTURES.items() if (scan.folder / name).is_file())
    reason = " ".join(scan.reasons[0].split())[:_MAX_REASON] if scan.reasons else ""
    of_kind = [kinds[kind] for kind in dict.fromkeys(map(reason_kind, scan.reasons))]
    numbers = [scan.numbers.get(key) for key, *_ in _QUALITY]
    return [scan.scan_id, scan.verdict, scan.stage, reason, of_kind, scan.neutral, scan.unit, pictures, scan.result,
            *numbers]  # fmt: skip


def _details(scan: GalleryScan, stages: Sequence[str]) -> dict[str, Any]:
    told = [
        {
            "name": name,
            "status": record.get("status", ""),
            "reason": record.get("reason", ""),
            "warnings": record.get("warnings") or [],
        }
        for name in stages
        if (record := scan.records.get(name)) is not None
    ]
    regions = [
        [name.replace("_", " "), of["distance"]["median_mm"], of["distance"]["p95_mm"], of["matched_share"]]
        for name, of in scan.regions.items()
    ]
    return {"stages": told, "regions": regions, "reasons": list(scan.reasons)}


def _distributions(
    gallery: Gallery, scans: Sequence[GalleryScan], numbers: Sequence[StageNumber]
) -> list[dict[str, Any]]:
    ids = [scan.scan_id for scan in scans]
    quality = [StageNumber("evaluate", key, _column(scans, key)) for key, *_ in _QUALITY]
    out = []
    for stage in gallery.stages:
        own = quality if stage == "evaluate" else [number for number in numbers if number.stage == stage]
        known = [number for number in own if np.isfinite(number.values).any()]
        counts = stage_counts([scan.records.get(stage, {}) for scan in scans])
        out.append({"name": stage, "counts": counts, "metrics": [distribution(number, ids) for number in known]})
    return out


def _column(scans: Sequence[GalleryScan], key: str) -> ndarray:
    values = [scan.numbers.get(key) for scan in scans]
    return np.array([np.nan if value is None else float(value) for value in values])


def _take_pictures(scan: GalleryScan, folder: Path, earlier: Path) -> None:
    """Copy the pictures, or take the copies of an earlier gallery that are still right.

    No links to the scan's own files: a new link changes their status, by which a run tells whether they were touched.
    """
    for name in PICTURES:
        source = scan.folder / name
        if not source.is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if _is_copy(earlier / name, source):
            os.replace(earlier / name, folder / name)
        else:
            shutil.copy2(source, folder / name)


def _is_copy(path: Path, source: Path) -> bool:
    if not path.is_file():
        return False
    own, other = path.stat(), source.stat()
    is_link = own.st_ino == other.st_ino
    return not is_link and (own.st_size, own.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _write_call(path: Path, function: str, *values: Any) -> None:
    # Not json_text: one line, and no sorted keys where the order is the page's.
    text = ",".join(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False) for value in values)
    # A line separator is a line break in older scripts.
    write_text(path, f"nphm.{function}({text});\n".replace("\u2028", " ").replace("\u2029", " "))
