"""Folders of published data sets: where their scans lie and what their names say. Standard library only."""

import json
from dataclasses import dataclass
from pathlib import Path

from nphm_core.errors import ScanTableError


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
            except (ValueError, AttributeError, TypeError):
                raise ScanTableError(
                    'the list of neutrals cannot be read, expected JSON such as {"17": 1}.\n'
                    f"Correct or remove it.\nFile {path}"
                ) from None
    return {}
