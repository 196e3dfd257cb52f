"""What every export of a scan starts from: its registration, its linear fit, its scan, and the maps between them."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from numpy import ndarray

from nphm_core.errors import ExportError
from nphm_core.geometry.mesh import Mesh
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, MM_PER_UNIT, Similarity
from nphm_core.template.model import Coefficients
from nphm_core.template.template import Template

CANONICAL_UNIT = "canonical"
UNITS = (*MM_PER_UNIT, CANONICAL_UNIT)
"""Units that an export may be asked for."""

SPACES = ("metric", "canonical")
"""The scan's own frame, or the frame with the head's pose removed."""


@dataclass(frozen=True)
class RegisteredScan:
    """One registered scan; metric space, mm."""

    subject: str
    expression: str
    neutral: str
    """`closed`, `open`, or empty."""
    registered: Mesh
    """In the subdivided topology, whose first vertices are the template's own."""
    fit: Coefficients
    fit_vertices_mm: Float[ndarray, "n_template 3"]
    T_metric_model: Similarity
    """From the head model's frame in metres."""
    T_canonical_metric: Similarity
    mm_per_scan_unit: float
    read_scan: Callable[[], Mesh]
    """Reads the scan itself; the largest file, and most formats need none of it."""

    @property
    def scan_id(self) -> str:
        """`subject/expression`."""
        return f"{self.subject}/{self.expression}"

    @property
    def to_metres(self) -> Similarity:
        """The map from metric space to FLAME's frame: the canonical one in metres."""
        return metres_of_canonical() @ self.T_canonical_metric

    def mesh(self, template: Template, topology: str = "registered") -> Mesh:
        """Give the registered mesh in its own topology, or in the template's with `template`."""
        if topology == "registered":
            return self.registered
        if self.registered.n_vertices < template.n_vertices:
            raise ExportError(
                f"the registered mesh has {self.registered.n_vertices} vertices, the template {template.n_vertices}; "
                f"expected at least as many. Give the template that it was made with. Scan {self.scan_id}"
            )
        return Mesh(self.registered.vertices[: template.n_vertices], template.faces)


def metres_of_canonical() -> Similarity:
    """Give the map from canonical units to metres in the same frame."""
    return Similarity(MM_PER_CANONICAL_UNIT / 1000, Similarity.identity().rotation, Similarity.identity().translation)


def export_map(scan: RegisteredScan, space: str, unit: str) -> Similarity:
    """Give the map from metric mm to a space in a unit."""
    per_unit = MM_PER_CANONICAL_UNIT if unit == CANONICAL_UNIT else MM_PER_UNIT[unit]
    still = Similarity.identity()
    if space == "metric":
        return Similarity(1 / per_unit, still.rotation, still.translation)
    return Similarity(MM_PER_CANONICAL_UNIT / per_unit, still.rotation, still.translation) @ scan.T_canonical_metric


def moved_mesh(mesh: Mesh, T_target_source: Similarity) -> Mesh:
    """Map a mesh; delivered normals are turned, colours and texture stay."""
    normals = None if mesh.normals is None else T_target_source.apply_directions(mesh.normals)
    return Mesh(T_target_source.apply(mesh.vertices), mesh.faces, normals, mesh.colours, mesh.texture)
