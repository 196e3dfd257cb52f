"""Colour images of scans: reading, writing, and packing several into one texture."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from nphm_core.errors import ScanFileError
from nphm_core.geometry.mesh import Texture
from nphm_core.io.files import atomic_write

MAX_TEXTURE_PIXELS = 16384
"""Longest edge of a texture that is read at its own size; larger ones are halved until they fit."""

MAX_FILE_PIXELS = 32768 * 16384
"""Larger images are refused: a small file can claim any size."""

_ERRORS = (OSError, ValueError, SyntaxError, EOFError, OverflowError, TypeError, KeyError, IndexError, struct.error)
"""What Pillow raises for damaged files."""


def read_image(path: Path) -> UInt8[ndarray, "height width 3"]:
    """Read an image as sRGB, row 0 at the top; transparency is ignored, grey is repeated."""
    from PIL import Image, UnidentifiedImageError

    # Texture atlases of scanners are larger than what Pillow takes for an attack.
    Image.MAX_IMAGE_PIXELS = None
    try:
        # From memory: a damaged chunk that claims 2 GB would be allocated before the file is found to be shorter.
        with Image.open(BytesIO(Path(path).read_bytes())) as image:
            if image.width * image.height > MAX_FILE_PIXELS:
                raise ValueError(f"{image.width}x{image.height}")
            while max(image.size) > MAX_TEXTURE_PIXELS:
                image = image.reduce(2)
            return np.asarray(image.convert("RGB"))
    except (*_ERRORS, UnidentifiedImageError) as error:
        raise ScanFileError(
            f"an image of a scan cannot be read ({str(error).split(' ', 1)[0]} …); expected PNG, JPEG, BMP or TIFF.\n"
            f"Replace the image, or remove it so that the scan is used without colour.\nFile {path}"
        ) from None


def write_image(path: Path, image: UInt8[ndarray, "height width 3"]) -> None:
    """Write an image as PNG, fast rather than small."""
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", compress_level=1)


def pack_texture(
    uv: Float[ndarray, "n_faces 3 2"],
    face_image: Int[ndarray, " n_faces"],
    images: list[UInt8[ndarray, "_height _width 3"]],
) -> Texture:
    """Put several images side by side and move the coordinates of each triangle to its own image.

    A triangle's coordinates are first shifted by whole numbers so that they start in [0, 1); a triangle that spans a
    repetition of one of several images is therefore coloured wrongly.
    """
    if len(images) == 1:
        return Texture(uv=uv, image=images[0])
    height = max(image.shape[0] for image in images)
    width = sum(image.shape[1] for image in images)
    canvas = np.zeros((height, width, 3), np.uint8)
    left, scale, offset = 0, np.empty((len(images), 2)), np.empty((len(images), 2))
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        canvas[:h, left : left + w] = image
        scale[i] = w / width, h / height
        offset[i] = left / width, 1.0 - h / height  # v counts from the bottom, the image hangs from the top
        left += w
    middle = uv.mean(axis=1, keepdims=True)
    local = np.clip(uv - np.floor(middle), 0.0, 1.0)
    return Texture(uv=local * scale[face_image][:, None] + offset[face_image][:, None], image=canvas)
