"""Landmark files: named points that a person put onto a scan, in the scan's own unit and frame.

Three kinds, told apart by the file's ending: JSON (an object of names, or a list in the order of a known set),
MeshLab's picked points (`.pp`, XML), and text (`.txt`, `.csv`, `.tsv`: name, x, y, z in a line). What the names mean is
not asked here. These files come from strangers: nothing in them is expanded, fetched or executed.
"""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.errors import LandmarkFileError

SUFFIXES = (".json", ".pp", ".txt", ".csv", ".tsv")
"""Endings of the kinds of files that are read."""
MAX_BYTES = 4_000_000
"""A few hundred points need a hundredth of it."""
_HEADER = ("name", "x", "y", "z")


@dataclass(frozen=True)
class NamedPoints:
    """Points of a landmark file, as they stand there."""

    names: tuple[str, ...]
    """Not checked, and never empty; a list without names has the numbers from 0 on."""
    points: Float[ndarray, "n 3"]
    """Scan space; may hold NaN."""


def read_landmark_file(path: Path) -> NamedPoints:
    """Read a landmark file; LandmarkFileError where it cannot be read, or is of no known kind."""
    path = Path(path)
    readers = {".json": _read_json, ".pp": _read_picked_points}
    if path.suffix.lower() not in SUFFIXES:
        raise _refusal(f"a landmark file ending in {path.suffix or 'nothing'} is of no known kind", path)
    if not path.is_file():
        # Also pipes, which have no end.
        raise _refusal("the landmark file cannot be read (there is no such file)", path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refusal(f"the landmark file cannot be read ({error.strerror})", path) from None
    if len(data) > MAX_BYTES:
        raise _refusal(f"the landmark file is larger than {MAX_BYTES // 1_000_000} MB", path)
    try:
        rows = readers.get(path.suffix.lower(), _read_text)(data)
        named = NamedPoints(tuple(name for name, _ in rows), np.array([point for _, point in rows]).reshape(-1, 3))
    except (ValueError, RecursionError, OverflowError, expat.ExpatError, csv.Error) as error:
        raise _refusal(f"the landmark file makes no sense: {error}", path) from None
    if not named.names:
        raise _refusal("the landmark file holds no points", path)
    return named


def _refusal(what: str, path: Path) -> LandmarkFileError:
    return LandmarkFileError(
        f"{what}. Expected JSON with names and positions, MeshLab's picked points (.pp), or a text with name, x, y and"
        f" z in each line. Correct it, or clear the column landmarks for the scan.\nFile {path}"
    )


def _point(values: Any) -> list[float]:
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"a position has three numbers, not {str(values)[:60]!r}")
    # True and "1" are no coordinates; null stands for a point that was not found.
    if any(isinstance(v, bool | str) or not isinstance(v, int | float | None) for v in values):
        raise ValueError(f"a position has three numbers, not {str(values)[:60]!r}")
    return [float("nan") if v is None else float(v) for v in values]


def _read_json(data: bytes) -> list[tuple[str, list[float]]]:
    content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    if isinstance(content, dict) and set(content) <= {"landmarks", "points"} and len(content) == 1:
        content = next(iter(content.values()))
    if isinstance(content, list):
        return [(str(number), _point(values)) for number, values in enumerate(content)]
    if not isinstance(content, dict):
        raise ValueError("an object of names or a list of positions was expected")
    return [(_name(name), _point(values)) for name, values in content.items()]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} appears twice")
    return dict(pairs)


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("a point has no name")
    return text.strip()


def _read_picked_points(data: bytes) -> list[tuple[str, list[float]]]:
    rows: list[tuple[str, list[float]]] = []

    def refuse_entity(*_: Any) -> int:
        raise ValueError("it declares entities, which no landmark file needs")

    def start(tag: str, attributes: dict[str, str]) -> None:
        # MeshLab keeps points that were not placed yet, marked so.
        if tag == "point" and attributes.get("active", "1") != "0":
            values = [_number(attributes.get(axis, "")) for axis in "xyz"]
            rows.append((_name(attributes.get("name", "")), values))

    parser = expat.ParserCreate()
    # MeshLab writes a document type, so only what a document type could do harm with is refused.
    parser.EntityDeclHandler = refuse_entity
    parser.ExternalEntityRefHandler = refuse_entity
    parser.StartElementHandler = start
    parser.Parse(data, True)
    return rows


def _read_text(data: bytes) -> list[tuple[str, list[float]]]:
    lines = data.decode("utf-8-sig").splitlines()
    kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    rows = [_cells(line) for line in kept]
    if rows and tuple(cell.lower() for cell in rows[0]) == _HEADER:
        rows = rows[1:]
    for row in rows:
        if len(row) != 4:
            raise ValueError(f"a line has {len(row)} cells, expected name, x, y and z: {' '.join(row)[:60]!r}")
    return [(_name(row[0]), [_number(cell) for cell in row[1:]]) for row in rows]


def _cells(line: str) -> list[str]:
    """Cut a line at tabs, else at semicolons, else at commas, else at blanks."""
    for separator in "\t;,":
        if separator in line:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    return re.split(r"\s+", line)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is no number") from None
