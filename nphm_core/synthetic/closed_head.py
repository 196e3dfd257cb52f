"""A clean head as a closed scan: what can be seen is measured, what is hidden and the cap of the neck are fills.

Hidden are the mouth's inside, sockets behind eyeballs, nostrils deep inside, and skin under crossing hair: a scanner
sees none of them, so nothing is sampled there and no distance that ends there is trusted. Positions in mm.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.quality import boundary_loops
from nphm_core.supervision.samples import ClosedScan
from nphm_core.template.visibility import open_share

_N_DIRECTIONS = 32
_MIN_SHARE = 0.03


def visible_faces(vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> Bool[ndarray, " m"]:
    """Mark the triangles of which at least two corners see the sky."""
    seen = open_share(vertices, faces, n_directions=_N_DIRECTIONS) > _MIN_SHARE
    return seen[faces].sum(1) >= 2


def closed_head(
    vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"], visible: Bool[ndarray, " m"]
) -> ClosedScan:
    """Close the neck with a cap and put the measured triangles first."""
    loops = boundary_loops(faces)
    middles = [vertices[loop].mean(0) for loop in loops]
    caps = [
        np.stack([np.full(len(loop), len(vertices) + k), np.roll(loop, -1), loop], axis=1)
        for k, loop in enumerate(loops)
    ]
    return ClosedScan(
        np.concatenate([vertices, *(middle[None] for middle in middles)]),
        np.concatenate([faces[visible], faces[~visible], *caps]),
        int(visible.sum()),
    )
