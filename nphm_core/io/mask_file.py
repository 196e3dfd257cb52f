"""Mask files: one number for each vertex of a scan as delivered, 1 to use it and 0 to ignore it."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.errors import ScanFileError
from nphm_core.io.array_files import read_npy


def read_mask_file(path: Path, n_vertices: int) -> Float[ndarray, " n_vertices"]:
    """Read a `.npy` file without pickle, or a text file; ScanFileError where it does not fit the scan."""
    path = Path(path)
    if not path.is_file():
        # Also devices and pipes, which have no end.
        raise _refusal("the mask cannot be read (there is no such file)", n_vertices)
    try:
        mask = read_npy(path) if path.suffix.lower() == ".npy" else _read_text(path)
    except (OSError, ValueError) as error:
        raise _refusal(f"the mask cannot be read ({error})", n_vertices) from None
    if mask.shape != (n_vertices,) or mask.dtype.kind not in "biuf":
        raise _refusal(f"the mask has shape {mask.shape} and type {mask.dtype}", n_vertices)
    mask = mask.astype(float)
    # NaN is in no range either.
    if not ((mask >= 0) & (mask <= 1)).all():
        raise _refusal("the mask has numbers outside 0 to 1", n_vertices)
    if not mask.any():
        raise _refusal("the mask ignores the whole scan", n_vertices)
    return mask


def _read_text(path: Path) -> ndarray:
    lines = path.read_bytes().decode("utf-8-sig").splitlines()
    return np.array([float(word) for line in lines for word in line.split("#")[0].split()])


def _refusal(what: str, n_vertices: int) -> ScanFileError:
    return ScanFileError(
        f"{what}. Expected a .npy or text file with one number from 0 to 1 for each of the scan's {n_vertices} vertices"
        " as delivered. Correct it, or clear the column mask for the scan"
    )
