"""Surfaces out of fields: sparse extraction, posed heads, and heads in the template's topology."""

from nphm_core.meshing.heads import canonical_mesh, posed_mesh, posed_meshes
from nphm_core.meshing.surface import Extraction, extract_surface

__all__ = ["Extraction", "canonical_mesh", "extract_surface", "posed_mesh", "posed_meshes"]
