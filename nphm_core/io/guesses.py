"""Guesses for a scan table from a folder of scans: who, which expression, which neutral, which unit, and why.

Everything guessed is told in words, so that a person can check a row without opening its file. Known data-set layouts
come first, then folders, then the parts of file names.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nphm_core.io.layouts import find_nphm_scans
from nphm_core.io.meshes import SCAN_SUFFIXES

MESH_SUFFIXES = tuple(suffix for suffix in SCAN_SUFFIXES if suffix not in (".txt", ".csv", ".npy"))
"""Text and arrays are as often landmarks as scans: a table names them by hand."""

_NEUTRAL_WORDS = {"neutral", "neutre", "rest", "relaxed", "neu", "ne", "base"}
_OPEN_WORDS = {"open", "mouthopen", "openmouth", "jawopen", "opened"}
_CLOSED_WORDS = {"closed", "mouthclosed", "close"}
_DERIVED_WORDS = {"template", "flame", "registration", "registered", "reg", "landmarks", "lmk"}
_FACESCAPE = re.compile(r"(\d+)_([a-z_]+)", re.IGNORECASE)
_FRAME = re.compile(r"(.+)\.(\d{3,})")


@dataclass(frozen=True)
class GuessedRow:
    """A row of the scan table to be checked by a person."""

    subject: str
    expression: str
    path: Path
    neutral: str
    unit: str
    exclude: bool
    reason: str
    guess: str
    """Why, one short clause for each guessed column."""


def guess_rows(folder: Path, extent_of: Callable[[Path], float | None]) -> list[GuessedRow]:
    """Guess a row for each scan below a folder, in the order of subjects and expressions.

    `extent_of` gives the diagonal of a scan's box in its own unit, or None where it cannot be read.
    """
    nphm = find_nphm_scans(folder)
    # Other folders may have numbers as names, too, and their unit is not NPHM's.
    if any(scan.neutral or scan.path.with_name("s.npy").is_file() for scan in nphm):
        text = "subject and expression: NPHM layout; neutral: its lists; unit: NPHM's"
        return [GuessedRow(s.subject, s.expression, s.path, s.neutral, "nphm", False, "", text) for s in nphm]
    paths = _scan_paths(folder)
    rows = _unique_ids([_guess_names(path, folder, paths) for path in paths])
    rows = _with_neutrals(_with_units(rows, extent_of))
    return sorted(rows, key=lambda row: (row.subject, row.expression))


def _scan_paths(folder: Path) -> list[Path]:
    """List files that may be scans; of one name in several formats the first of the known formats."""
    found: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if (
            path.suffix.lower() not in MESH_SUFFIXES
            or not path.is_file()
            or any(p.startswith((".", "__")) for p in inside)
        ):
            continue
        known = found.setdefault(path.with_suffix(""), path)
        if MESH_SUFFIXES.index(path.suffix.lower()) < MESH_SUFFIXES.index(known.suffix.lower()):
            found[path.with_suffix("")] = path
    return list(found.values())


def _guess_names(path: Path, folder: Path, paths: list[Path]) -> GuessedRow:
    parts = path.relative_to(folder).with_suffix("").parts
    stem, above = parts[-1], parts[:-1]
    siblings = [p for p in paths if p.parent == path.parent]
    scape = _FACESCAPE.fullmatch(stem)
    frame = _FRAME.fullmatch(path.name.removesuffix(path.suffix))
    if scape and above and (above[-1] == "models_reg" or above[-1].isdecimal()):
        subject = above[-2] if above[-1] == "models_reg" and len(above) > 1 else above[-1]
        names = (subject, scape[2], "FaceScape's <subject>/<number>_<expression>")
    elif frame and len(above) >= 2:
        clean = [part for part in above if part not in ("meshes", "scans", "registrations")]
        subject = clean[-2] if len(clean) > 1 else clean[-1]
        sequence = clean[-1] if len(clean) > 1 else frame[1]
        names = (subject, f"{sequence}-{frame[2]}", "sequence folders with numbered frames")
    elif len(above) >= 2 and len(siblings) == 1:
        names = (above[-2], above[-1], "one scan a folder: <subject>/<expression>/")
    elif above and len(siblings) > 1:
        names = (above[-1], stem, "<subject>/<expression>")
    elif above:
        names = (above[-1], _expression_of(stem), "one scan in a folder of its subject")
    else:
        names = _split_stem(stem, siblings)
    subject, expression, why = names
    words = set(_words(stem))
    derived = sorted(words & _DERIVED_WORDS)
    reason = f"its name says {derived[0]}: probably no raw scan" if derived else ""
    return GuessedRow(
        _as_id(subject), _as_id(expression), path, "", "", bool(derived), reason, f"subject and expression: {why}"
    )


def _split_stem(stem: str, siblings: list[Path]) -> tuple[str, str, str]:
    """Split <subject>_<expression> where several files share the subject, or the rest is a known word."""
    for separator in ("_", "-", " "):
        subject, found, expression = stem.partition(separator)
        if not found or not subject or not expression:
            continue
        sharing = [p for p in siblings if p.stem.startswith(subject + separator)]
        known = set(_words(expression)) & (_NEUTRAL_WORDS | _OPEN_WORDS | _CLOSED_WORDS)
        if known or 1 < len(sharing) < len(siblings):
            return subject, expression, f"<subject>{separator}<expression> in the file's name".replace(" <", "<")
    return stem, "scan", "one subject a file, as nothing divides its name"


def _expression_of(stem: str) -> str:
    return stem if set(_words(stem)) & (_NEUTRAL_WORDS | _OPEN_WORDS | _CLOSED_WORDS) else "scan"


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)]


def _as_id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "scan"


def _unique_ids(rows: list[GuessedRow]) -> list[GuessedRow]:
    """Number scans that would share an id; ids that differ in case only would share a folder on some disks."""
    taken: Counter[tuple[str, str]] = Counter()
    out = []
    for row in rows:
        key = (row.subject.lower(), row.expression.lower())
        taken[key] += 1
        if taken[key] > 1:
            name = f"{row.expression}-{taken[key]}"
            row = replace(row, expression=name, guess=f"{row.guess}, numbered as the name is taken")
        out.append(row)
    return out


def _with_neutrals(rows: list[GuessedRow]) -> list[GuessedRow]:
    """Mark at most one closed and one open neutral a subject."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if not row.exclude:
            groups[row.subject].append(i)
    out = list(rows)
    for members in groups.values():
        words = {i: set(_words(rows[i].expression)) | {"".join(_words(rows[i].expression))} for i in members}
        neutral = [i for i in members if words[i] & _NEUTRAL_WORDS]
        opened = [i for i in neutral if words[i] & _OPEN_WORDS] or [
            i for i in members if words[i] & _OPEN_WORDS and len(words[i] - _OPEN_WORDS - {"mouth"}) <= 1
        ]
        closed = [i for i in neutral if i not in opened]
        if len(members) == 1 and not opened and not closed:
            closed = members
            out[members[0]] = replace(rows[members[0]], guess=rows[members[0]].guess + "; neutral: the only scan")
        for kind, found in (("closed", closed), ("open", opened)):
            if found:
                i = found[0]
                why = "" if "; neutral:" in out[i].guess else "; neutral: a word in its name"
                out[i] = replace(out[i], neutral=kind, guess=out[i].guess + why)
    return out


# Diagonals of boxes from a face's front (200 mm) to a person down to the chest (900 mm).
_SMALLEST_MM, _LARGEST_MM = 150.0, 1000.0
_MAX_BYTES = 2_000_000_000


def _with_units(rows: list[GuessedRow], extent_of: Callable[[Path], float | None]) -> list[GuessedRow]:
    """Look into scans until a total of bytes is read: a data set of thousands would take an hour."""
    out, n_bytes = [], 0
    for row in rows:
        n_bytes += row.path.stat().st_size
        if n_bytes > _MAX_BYTES:
            out.append(replace(row, unit="auto", guess=f"{row.guess}; unit: not looked into, as there are many scans"))
            continue
        extent = extent_of(row.path)
        if extent is None:
            reason = row.reason or "the file cannot be read"
            out.append(replace(row, unit="auto", exclude=True, reason=reason))
            continue
        unit, why = _unit_of(extent)
        out.append(replace(row, unit=unit, guess=f"{row.guess}; unit: {why}"))
    return out


def _unit_of(extent: float) -> tuple[str, str]:
    """Propose the one unit in which a box has the size of a head, else leave it to the face that will be found."""
    scales = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 0.001}
    fitting = [unit for unit, mm in scales.items() if _SMALLEST_MM <= extent * mm <= _LARGEST_MM]
    if not fitting:
        return "auto", f"its box has a diagonal of {extent:.3g}, no head in m, cm or mm"
    return fitting[0], f"its box has a diagonal of {extent:.3g}"
