"""What the template knows, carried to the vertices of a registered mesh, which is finer."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import TopologyError
from nphm_core.geometry.subdivision import subdivide_values, subdivision_hierarchy
from nphm_core.template.template import Template

_MM_PER_METRE = 1000.0


@dataclass(frozen=True)
class FineTemplate:
    """The template's own shape and regions in the topology of registered meshes."""

    rest: Float[ndarray, "n_vertices 3"]
    """Mean shape, mm, in the model's frame."""
    regions: dict[str, Bool[ndarray, " n_vertices"]]
    faces: Int[ndarray, "n_faces 3"]


def fine_template(template: Template, levels: int, region: str) -> FineTemplate:
    """Subdivide the template as `subdivide` does, `levels` times, all of it (`head`) or its `face`."""
    selected = template.region_faces("face") if region == "face" else None
    hierarchy = subdivision_hierarchy(template.faces, template.n_vertices, levels, selected)
    regions = {
        name: subdivide_values(hierarchy, mask.astype(np.float64)) > 0.5 for name, mask in template.regions.items()
    }
    rest = subdivide_values(hierarchy, _MM_PER_METRE * template.model.v_template)
    return FineTemplate(rest, regions, hierarchy[-1].faces if hierarchy else template.faces)


def check_fine_topology(fine: FineTemplate, faces: Int[ndarray, "n_faces 3"]) -> None:
    """Raise TopologyError unless these are the faces that the template's subdivision has."""
    if not np.array_equal(fine.faces, faces):
        raise TopologyError(
            f"the registered mesh has {len(faces)} triangles that are not those of the subdivided template, which has "
            f"{len(fine.faces)}; expected the same. Delete registered.ply and run again, so that arap makes it anew"
        )
