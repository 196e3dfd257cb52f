"""Folders of published data sets: where their scans lie and what their names say. Standard library only."""

import json
from dataclasses import dataclass
from pathlib import Path

from nphm_core.errors import ScanFileError, ScanTableError


@dataclass(frozen=True)
class FoundScan:
    """A scan that a layout's rules found."""

    subject: str
    expression: str
    path: Path
    neutral: str = ""
    """`closed`, `open`, or empty."""


def find_nphm_scans(folder: Path) -> list[FoundScan]:
    """List `<subject>/<expression>/scan.ply` below a folder or its `DATA`, both numbers, in their order.

    `neutrals_open.json` and `neutrals_closed.json`, beside the subjects or one folder up, mark the neutrals.
    """
    for root in (folder / "DATA", folder):
        scans = [path for path in sorted(root.glob("[0-9]*/[0-9]*/scan.ply")) if _are_numbers(path)]
        if scans:
            break
    else:
        return []
    neutrals = {kind: _read_neutrals(f"neutrals_{kind}.json", [root, root.parent]) for kind in ("open", "closed")}
    out = []
    for path in scans:
        subject, expression = path.parts[-3:-1]
        neutral = next((k for k in ("closed", "open") if neutrals[k].get(int(subject)) == int(expression)), "")
        out.append(FoundScan(subject, expression, path, neutral))
    return out


def _are_numbers(path: Path) -> bool:
    return path.parts[-3].isdecimal() and path.parts[-2].isdecimal()


def _read_neutrals(name: str, folders: list[Path]) -> dict[int, int]:
    """Read subject -> expression; -1 stands for none and matches nothing."""
    for folder in folders:
        path = folder / name
        if path.is_file():
            try:
                return {int(subject): int(expression) for subject, expression in json.loads(path.read_text()).items()}
            except (ValueError, AttributeError, TypeError, RecursionError, OverflowError):
                raise ScanTableError(
                    'the list of neutrals cannot be read, expected JSON such as {"17": 1}.\n'
                    f"Correct or remove it.\nFile {path}"
                ) from None
    return {}


def read_nphm_mm_per_unit(path: Path) -> float:
    """Give the millimetres in one unit of an NPHM scan: 1/s of the `s.npy` beside it, else 250.

    Raw coordinates in mm times s are the stored ones, up to rotation and translation.
    """
    import numpy as np

    from nphm_core.io.array_files import read_npy
    from nphm_core.spaces import MM_PER_CANONICAL_UNIT

    file = path.with_name("s.npy")
    if not file.is_file():
        return MM_PER_CANONICAL_UNIT
    try:
        scale = read_npy(file).astype(float).ravel()
    except (OSError, ValueError, TypeError):
        scale = np.empty(0)
    # A head in mm is 180 to 400; scales far from 1/250 belong to another convention.
    if scale.size != 1 or not 1e-3 < scale[0] < 1e-1:
        raise ScanFileError(
            f"the scale s of an NPHM scan is {scale.tolist()}, expected one number near 0.004.\n"
            f"Replace s.npy, or remove it to take 250 mm a unit.\nFile {file}"
        )
    return 1.0 / float(scale[0])
