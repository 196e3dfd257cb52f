"""Where on a true head a prediction is measured: `head` is what lies above the throat, `face` what lies near the face.

All in metric space, in mm. Both regions come from the registered mesh of the true scan, never from the prediction.
Face as in the released code of NPHM (METHOD 8.1, step 3): of the nearest of the registered face's vertices a point is
at most 10 mm away, and at most 5 mm away from the plane through it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nphm_core.errors import NphmError
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh, vertex_normals
from nphm_core.spaces import Similarity
from nphm_core.supervision.samples import Plane
from nphm_core.template.template import Template

FACE_DISTANCE_MM = 10.0
FACE_PLANE_MM = 5.0


class MeasureError(NphmError):
    """A fitted head or its true scan cannot be measured."""


@dataclass(frozen=True)
class HeadRegions:
    """The regions of one true head, and its place in canonical space."""

    throat: Plane
    """What it keeps is head."""
    face_points: Float[ndarray, "n_face 3"]
    face_normals: Float[ndarray, "n_face 3"]
    T_canonical_metric: Similarity

    def in_head(self, points: Float[ndarray, "n 3"]) -> Bool[ndarray, " n"]:
        """Mark points above the throat."""
        return self.throat.keeps(points)

    def in_face(self, points: Float[ndarray, "n 3"]) -> Bool[ndarray, " n"]:
        """Mark points above the throat and near the face."""
        found = self._nearest_face.query(points, FACE_DISTANCE_MM).face
        near = np.flatnonzero(found >= 0)
        offset = points[near] - self.face_points[found[near]]
        plane = np.abs(np.einsum("nk,nk->n", offset, self.face_normals[found[near]]))
        out = np.zeros(len(points), bool)
        out[near[plane <= FACE_PLANE_MM]] = True
        return out & self.in_head(points)

    @cached_property
    def _nearest_face(self) -> ClosestPoints:
        return ClosestPoints(self.face_points, np.zeros((0, 3), np.int64))


def head_regions(
    registered: Mesh,
    template: Template,
    throat: Plane,
    T_canonical_metric: Similarity,
    *,
    throat_margin_mm: float = 0.0,
) -> HeadRegions:
    """Give the regions of a true head from its registered mesh, whose first vertices are the template's.

    The throat's plane is raised by the margin towards the head.
    """
    face = np.flatnonzero(template.regions["face"])
    if not len(face):
        raise MeasureError(
            "the template has no face region; expected some vertices. Make it with `python -m pipelines.template`"
        )
    normals = vertex_normals(registered.vertices, registered.faces)
    raised = Plane(throat.origin + throat_margin_mm * throat.normal, throat.normal)
    return HeadRegions(raised, registered.vertices[face], normals[face], T_canonical_metric)
