"""Random generators that depend on the seed, the stage and the scan, and on nothing else."""

import hashlib

import numpy as np


def rng_for(seed: int, stage: str, scan_id: str) -> np.random.Generator:
    """Give the generator of one stage for one scan."""
    digest = hashlib.sha256(f"{stage}\0{scan_id}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
