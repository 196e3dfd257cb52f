"""Measures of registered meshes, and the verdict on each scan."""
