"""Registered meshes as the linear baseline's training reads them: from the samples of the expression deformation.

Each file holds a scan's registered mesh and that of its subject's canonical neutral, with the trust of each vertex.
Files are opened anew for each range of vertices, so any number of scans takes the memory of one range.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from nphm_core.config import SubdivideConfig
from nphm_core.errors import TopologyError, TrainingError
from nphm_core.evaluation.fine_template import FineTemplate, fine_template
from nphm_core.supervision.quantise import Box, decode_positions
from nphm_core.supervision.sample_file import DELTA_KIND, MappedFile
from nphm_core.template.template import Template, topology_hash
from nphm_core.training.pca import ShapeTable

_TRUST_STEPS = np.float32(255)


def neutral_shapes(paths: Sequence[Path]) -> ShapeTable:
    """Give canonical neutrals, each from the file of the scan that shows its subject in the canonical expression."""

    def one(file: MappedFile, start: int, stop: int) -> ndarray:
        return _positions(file, "posed", start, stop)

    return _table(paths, one)


def displacement_shapes(paths: Sequence[Path]) -> ShapeTable:
    """Give posed less canonical positions of scans."""

    def one(file: MappedFile, start: int, stop: int) -> ndarray:
        return _positions(file, "posed", start, stop) - _positions(file, "canonical", start, stop)

    return _table(paths, one)


def sampled_template(path: Path, template: Template) -> FineTemplate:
    """Give the template refined as the meshes of a file were; TopologyError if they are of another template."""
    wanted = MappedFile(path, DELTA_KIND).facts["topology"]
    for levels in range(4):
        for region in ("head", "face"):
            fine = fine_template(template, SubdivideConfig(levels=levels, region=region))
            if topology_hash(len(fine.rest), fine.faces) == wanted:
                return fine
    raise TopologyError(
        f"the registered meshes have the topology {wanted[:8]}, which is no subdivision of the template "
        f"{template.name}; expected meshes that were registered with it. Use their template. File {path}"
    )


def _table(paths: Sequence[Path], one: Callable[[MappedFile, int, int], ndarray]) -> ShapeTable:
    n_vertices = _check(paths)

    def read(start: int, stop: int) -> tuple[Float32[ndarray, "n m 3"], Float32[ndarray, "n m"]]:
        shapes = np.empty((len(paths), stop - start, 3), np.float32)
        trust = np.empty((len(paths), stop - start), np.float32)
        for row, path in enumerate(paths):
            file = MappedFile(path, DELTA_KIND)
            shapes[row] = one(file, start, stop)
            trust[row] = file["weight"][start:stop] / _TRUST_STEPS
        return shapes, trust

    return ShapeTable(len(paths), n_vertices, read)


def _positions(file: MappedFile, side: str, start: int, stop: int) -> ndarray:
    return decode_positions(file[f"{side}.position"][start:stop], Box.from_json(file.facts["box"]))


def _check(paths: Sequence[Path]) -> int:
    """Give the vertex count that all files share; TrainingError where they do not, or lack vertices."""
    n_vertices, topology = 0, ""
    for path in paths:
        file = MappedFile(path, DELTA_KIND)
        if "vertex" in file or "canonical.position" not in file:
            raise TrainingError(
                "the samples hold a part of the head only, or no canonical neutral; the linear baseline needs whole "
                f"registered meshes. Set sample_delta.region to head and run sample_delta again. File {path}"
            )
        topology = topology or file.facts["topology"]
        if file.facts["topology"] != topology:
            raise TrainingError(
                f"the registered meshes have different topologies ({topology[:8]}, {file.facts['topology'][:8]}); "
                f"expected one. Register all scans with the same template and subdivision. File {path}"
            )
        n_vertices = len(file["weight"])
    return n_vertices
