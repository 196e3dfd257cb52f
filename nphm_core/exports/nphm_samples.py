"""Training samples in the NPHM layout: surface points of the canonical neutrals, pairs of the deformation.

`SUPERVISION_IDENTITY/<subject>/<expression>_<k>_face.npy` and `..._non_face.npy` (float32: position, normal), k below
200; `SUPERVISION_DEFORMATION_OPEN/<subject>/<expression>/corresp_<k>.npy` (float64: neutral, posed), k below 100.
Everything is in canonical units. A loader opens one file at random, so every one of them is there. With fewer samples
than NPHM stores the same surface points return in several files; pairs are drawn anew for each.
"""

from pathlib import Path

import numpy as np

from nphm_core.errors import ExportError
from nphm_core.exports.nphm_layout import write_npy
from nphm_core.supervision.sample_delta import DeltaPairs
from nphm_core.supervision.sample_file import SdfSampleReader

N_IDENTITY_FILES = 200
N_PAIR_FILES = 100
ROWS_PER_IDENTITY_FILE = 5000
ROWS_PER_PAIR_FILE = 10000


def write_identity_samples(
    root: Path, subject: int, expression: int, samples: SdfSampleReader, n_rows: int = ROWS_PER_IDENTITY_FILE
) -> None:
    """Write the 200 pairs of files of one subject, from the samples of its canonical neutral; 48 MB by default."""
    folder = root / "SUPERVISION_IDENTITY" / f"{subject:03d}"
    for ours, theirs in (("face", "face"), ("rest", "non_face")):
        n_all = samples.count(ours)
        if n_all == 0:
            raise ExportError(
                f"the scan has no samples in the group {ours}; expected some for {theirs}. Look at the scan's quality "
                "picture, or export without samples"
            )
        stride = max(1, n_all // N_IDENTITY_FILES)
        for k in range(N_IDENTITY_FILES):
            position, normal = samples.surface(ours, k * stride, n_rows)
            rows = np.concatenate([position, normal], axis=1).astype(np.float32)
            write_npy(folder / f"{expression}_{k}_{theirs}.npy", rows)


def write_pair_samples(
    root: Path,
    subject: int,
    expression: int,
    pairs: DeltaPairs,
    *,
    rng: np.random.Generator,
    n_rows: int = ROWS_PER_PAIR_FILE,
) -> None:
    """Write the 100 files of one expression; 48 MB by default."""
    folder = root / "SUPERVISION_DEFORMATION_OPEN" / f"{subject:03d}" / f"{expression:03d}"
    for k in range(N_PAIR_FILES):
        drawn = pairs.sample(n_rows, rng=rng)
        write_npy(folder / f"corresp_{k}.npy", np.concatenate([drawn.canonical, drawn.posed], axis=1))
