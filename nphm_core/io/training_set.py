"""The training set: which scans a model is trained on, which are kept from it, and why others are left out.

A TSV with a row for each scan of the scan table. It names the digests of the samples, so that its bytes change when,
and only when, what a training reads has changed. Standard library only.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from nphm_core.errors import TrainingError
from nphm_core.io.files import write_text

ROLES = ("train", "held-out", "left-out")
"""`held-out` scans are of subjects that are fitted and measured; `left-out` ones have no usable samples."""


@dataclass(frozen=True)
class TrainingRow:
    """One scan."""

    subject: str
    expression: str
    role: str
    canonical: bool
    """The scan that shows its subject in the canonical expression: the identity is learnt from it."""
    reason: str = ""
    """Why it is left out."""
    sdf_sha256: str = ""
    delta_sha256: str = ""
    registered_sha256: str = ""

    @property
    def scan_id(self) -> str:
        """`subject/expression`."""
        return f"{self.subject}/{self.expression}"


def write_training_set(path: Path, rows: Sequence[TrainingRow]) -> None:
    """Write the rows; the same rows give the same bytes."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    writer.writerow([field.name for field in fields(TrainingRow)])
    for row in rows:
        cells = asdict(row) | {"canonical": "yes" if row.canonical else "", "reason": " ".join(row.reason.split())}
        writer.writerow(cells.values())
    write_text(path, out.getvalue())


def read_training_set(path: Path) -> list[TrainingRow]:
    """Read what `write_training_set` wrote; TrainingError where it is something else."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))
        return [TrainingRow(**(row | {"canonical": row["canonical"] == "yes"})) for row in rows]
    except (OSError, KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(
            f"the training set cannot be read ({error}); expected the table that `python -m pipelines.training_set` "
            f"writes. Run that command again. File {path}"
        ) from None


def chosen(rows: Sequence[TrainingRow], role: str, *, canonical: bool = False) -> list[TrainingRow]:
    """Give the rows of a role, all or the canonical ones only."""
    return [row for row in rows if row.role == role and (row.canonical or not canonical)]
