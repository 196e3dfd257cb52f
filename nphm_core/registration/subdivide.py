"""Refine the template's triangles, so that the registration can follow what the linear model cannot.

Every cut makes four triangles of one; two cuts, 16 times the triangles, are NPHM's choice (Giebenhain et al., CVPR
2023, which refines the face only). The first vertices are the template's own, in their order.
"""

import numpy as np

from nphm_core.config import SubdivideConfig
from nphm_core.geometry.subdivision import Subdivision, subdivision_hierarchy
from nphm_core.template.template import Template


def template_hierarchy(template: Template, settings: SubdivideConfig) -> list[Subdivision]:
    """Give the refinement of the template, coarsest step first; depends on template and settings only."""
    selected = None
    if settings.region == "face":
        selected = template.regions["face"][template.faces].any(axis=1)
    return subdivision_hierarchy(template.faces.astype(np.int64), template.n_vertices, settings.levels, selected)
