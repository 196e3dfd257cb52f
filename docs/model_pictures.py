"""Draw heads that a trained model draws from its prior, and heads between two of its subjects, each on one sheet.

    python -m docs.model_pictures --model DIR --out docs/pictures [--resolution 160]

makes `model-samples.jpg` (20 heads) and `model-interpolations.jpg` (10 pairs, 5 steps each). A minute on a GPU, 15 on
a CPU core.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nphm_core.geometry.mesh import Mesh
from nphm_core.meshing.heads import posed_mesh
from nphm_core.meshing.surface import Extraction
from nphm_core.models.checkpoint import from_pretrained
from nphm_core.models.codes import interpolate_codes, sample_codes
from nphm_core.models.neural_head import NeuralHead
from nphm_core.registration.cameras import Camera, look_at
from nphm_core.report.head_views import CLAY, HeadSurface
from nphm_core.spaces import MM_PER_CANONICAL_UNIT

TILE_PX = 220
YAW_RAD = 0.5
_DISTANCE_MM, _FRAME_MM, _CENTRE_MM = 1400.0, 340.0, (0.0, 10.0, -60.0)
QUALITY = 84


def main() -> None:
    """Draw both sheets."""
    options = _parser().parse_args()
    head = from_pretrained(options.model)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = sample_codes(head.identity_prior, 20, generator=generator)
    order = torch.randperm(len(head.subjects), generator=generator)[:20].tolist()
    codes = head.identity_codes
    lines = [interpolate_codes(codes[a], codes[b], 5) for a, b in zip(order[::2], order[1::2], strict=True)]
    head.to(options.device)
    sheet([drawn[k] for k in range(20)], head, options, n_columns=5).save(
        options.out / "model-samples.jpg", quality=QUALITY
    )
    sheet([code for line in lines for code in line], head, options, n_columns=10).save(
        options.out / "model-interpolations.jpg", quality=QUALITY
    )


def sheet(codes: Sequence[torch.Tensor], head: NeuralHead, options: argparse.Namespace, n_columns: int) -> Image.Image:
    """Draw the canonical heads of identity codes, row by row."""
    tiles = [picture(mesh_of(head, code.to(options.device), options.resolution)) for code in codes]
    rows = [np.concatenate(tiles[k : k + n_columns], axis=1) for k in range(0, len(tiles), n_columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def mesh_of(head: NeuralHead, code: torch.Tensor, resolution: int) -> Mesh:
    """Mesh a head in its canonical, open neutral, in mm."""
    mesh = posed_mesh(head, code, None, resolution, how=Extraction(keep_largest=True))
    return Mesh(MM_PER_CANONICAL_UNIT * mesh.vertices, mesh.faces)


def picture(mesh: Mesh) -> np.ndarray:
    """Draw a head, turned a little."""
    tile = HeadSurface(mesh).seen_by(camera())
    return tile.painted(CLAY * tile.light[:, None])


def camera() -> Camera:
    """Give the camera, which is the same for all, so that sizes can be compared."""
    back, up = np.array([np.sin(YAW_RAD), 0.0, np.cos(YAW_RAD)]), np.array([0.0, 1.0, 0.0])
    focal_px = TILE_PX * _DISTANCE_MM / _FRAME_MM
    return look_at(np.array(_CENTRE_MM), back, up, _DISTANCE_MM, focal_px, round(0.8 * TILE_PX), TILE_PX)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--resolution", type=int, default=160, help="cells along the longest side of the box")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    main()
