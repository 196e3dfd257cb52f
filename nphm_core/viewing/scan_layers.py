"""The layers of a scan in the viewer: scan, linear fit, registration, its error map. Head frame, mm."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from nphm_core.geometry.mesh import Mesh
from nphm_core.report.colour_map import UNSEEN, colours_of, error_colours
from nphm_core.spaces import Similarity

_BAR_PIXELS = (24, 256)


@dataclass(frozen=True)
class Layer:
    """One surface that can be switched on and off."""

    name: str
    mesh: Mesh
    """With colours where the layer has its own."""
    colour: tuple[int, int, int] = (204, 200, 194)
    """Where the mesh has none."""


def scan_layers(
    scan: Mesh,
    fit: Mesh,
    registered: Mesh,
    distance_mm: Float[ndarray, " n_registered"],
    weight: Float[ndarray, " n_registered"],
    T_head_metric: Similarity,
    *,
    largest_mm: float,
) -> list[Layer]:
    """Give a scan's layers, from meshes in metric space; what followed no scan is grey in the error map."""
    colours = error_map(distance_mm, weight, largest_mm)
    error = Mesh(registered.vertices, registered.faces, colours=colours)
    return [
        Layer("scan", _moved(scan, T_head_metric)),
        Layer("linear fit", _moved(fit, T_head_metric), (92, 148, 219)),
        Layer("registration", _moved(registered, T_head_metric)),
        Layer("error", _moved(error, T_head_metric)),
    ]


def error_map(
    distance_mm: Float[ndarray, " n"], weight: Float[ndarray, " n"], largest_mm: float
) -> UInt8[ndarray, "n 3"]:
    """Give the colours of vertices by their distance to the scan; grey where the scan had no say."""
    measured = np.isfinite(distance_mm) & (weight > 0)
    return np.where(measured[:, None], colours_of(np.where(measured, distance_mm, 0.0), largest_mm), UNSEEN)


def colour_bar() -> UInt8[ndarray, "24 256 3"]:
    """Give a picture of the error map's colours, no error at the left."""
    return np.ascontiguousarray(np.broadcast_to(error_colours(), (_BAR_PIXELS[0], _BAR_PIXELS[1], 3)))


def joined_mesh(layers: list[Layer]) -> Mesh:
    """Give one mesh of several layers, each with its colours; their vertices follow each other in order."""
    if not layers:
        raise ValueError("no layer is shown")
    starts = np.cumsum([0, *(layer.mesh.n_vertices for layer in layers[:-1])])
    return Mesh(
        np.concatenate([layer.mesh.vertices for layer in layers]),
        np.concatenate([layer.mesh.faces + start for layer, start in zip(layers, starts, strict=True)]),
        colours=np.concatenate([_colours(layer) for layer in layers]),
    )


def _colours(layer: Layer) -> UInt8[ndarray, "n 3"]:
    if layer.mesh.colours is not None:
        return layer.mesh.colours
    return np.tile(np.array(layer.colour, np.uint8), (layer.mesh.n_vertices, 1))


def _moved(mesh: Mesh, T: Similarity) -> Mesh:
    return Mesh(T.apply(mesh.vertices), mesh.faces, colours=mesh.colours)
