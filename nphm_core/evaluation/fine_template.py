"""What the template knows, carried to the vertices of a registered mesh, which is finer."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.config import SubdivideConfig
from nphm_core.errors import TopologyError
from nphm_core.geometry.subdivision import subdivide_surface, subdivide_values, subdivided_faces
from nphm_core.registration.subdivide import template_hierarchy
from nphm_core.template.template import Template

_MM_PER_METRE = 1000.0


@dataclass(frozen=True)
class FineTemplate:
    """The template's own shape and regions in the topology of registered meshes."""

    rest: Float[ndarray, "n_vertices 3"]
    """Mean shape, mm, in the model's frame."""
    regions: dict[str, Bool[ndarray, " n_vertices"]]
    faces: Int[ndarray, "n_faces 3"]


def fine_template(template: Template, settings: SubdivideConfig) -> FineTemplate:
    """Refine the template as the registered mesh was refined."""
    hierarchy = template_hierarchy(template, settings)
    masks = np.stack(list(template.regions.values()), axis=1).astype(np.float64)
    fine = subdivide_values(hierarchy, masks) > 0.5
    return FineTemplate(
        rest=subdivide_surface(hierarchy, template.faces, _MM_PER_METRE * template.model.v_template),
        regions={name: fine[:, k] for k, name in enumerate(template.regions)},
        faces=subdivided_faces(hierarchy, template.faces)[0],
    )


def check_fine_topology(fine: FineTemplate, faces: Int[ndarray, "n_faces 3"]) -> None:
    """Raise TopologyError unless these are the faces that the template's subdivision has."""
    if not np.array_equal(fine.faces, faces):
        raise TopologyError(
            f"the registered mesh has {len(faces)} triangles that are not those of the subdivided template, which has "
            f"{len(fine.faces)}; expected the same. Delete registered.ply and run again, so that arap makes it anew"
        )


def view_topology(template: Template, settings: SubdivideConfig) -> tuple[int, Int[ndarray, "n_faces 3"]]:
    """Give number of vertices and faces of a coarser form of registered meshes, whose first vertices it has.

    For looking at: at most one subdivision of the template.
    """
    hierarchy = template_hierarchy(template, settings)[:1]
    n_vertices = hierarchy[0].n_vertices if hierarchy else template.n_vertices
    return n_vertices, subdivided_faces(hierarchy, template.faces)[0]
