"""Checks of scan and registered mesh as surfaces, and the closed scan that signs distances.

All in metric space (mm). The repair itself is done by another process; here its result is read back on the scan's own
vertices. Of a closed scan's triangles the first ones are the scan's and the others fill holes: fills are a guess, not
a measurement.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.geometry.components import connected_components
from nphm_core.geometry.intersections import self_intersections
from nphm_core.geometry.mesh import Mesh, face_normals
from nphm_core.geometry.quality import MeshQuality, measure_quality
from nphm_core.geometry.winding import WindingNumber
from nphm_core.io.scan_file import weld

_MAX_VERTICES = 2_000_000
"""The cube of this still is an int64."""
_MIN_SURVIVING = 0.9
"""Share of the scan's triangles that a repair must leave."""
_N_PROBES = 4000
_PROBE_MM = 1.0
"""Less than an ear's thickness."""
_SURE = 0.2
"""Winding numbers nearer to one half than this are in doubt, and known to be."""
_GOOD_SIGN_ERROR, _BAD_SIGN_ERROR = 0.005, 0.03
_SMALL_HOLE_MM = 40.0
"""Nostrils, ears, gaps in hair; their fills cannot go far astray."""


@dataclass(frozen=True)
class SurfaceCheck:
    """What is right and wrong with one surface."""

    quality: MeshQuality
    n_self_intersections: int
    """Pairs of triangles that cross."""

    def to_json(self) -> dict[str, Any]:
        """Give plain numbers for a JSON file; the volume is None unless the surface is closed."""
        facts: dict[str, Any] = asdict(self.quality)
        facts["signed_volume"] = None if np.isnan(self.quality.signed_volume) else self.quality.signed_volume
        return facts | {
            "is_watertight": self.quality.is_watertight,
            "is_manifold": self.quality.is_manifold,
            "n_self_intersections": self.n_self_intersections,
        }


@dataclass(frozen=True)
class ClosedScan:
    """A scan with its holes filled as far as that went, in metric space (mm)."""

    vertices: Float[ndarray, "n 3"]
    """Of a mesh: the scan's own in its order, then copies of those that a repair split."""
    faces: Int[ndarray, "m 3"]
    """First the scan's triangles, then the fills."""
    n_scan_faces: int
    """How many of them are the scan's."""
    method: str
    """`closed` (nothing was missing), `holes filled`, `small holes filled`, `poisson`, or `open` (left as it was)."""
    sign_error: float = 0.0
    """Share of the scan's area near which the winding number clearly names the wrong side."""


def check_surface(vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> SurfaceCheck:
    """Measure a surface and count its self-intersections."""
    return SurfaceCheck(measure_quality(vertices, faces), len(self_intersections(vertices, faces)))


def open_scan(vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]) -> ClosedScan:
    """Give the scan as it is, for distances signed by winding numbers alone."""
    scan = ClosedScan(vertices, faces, len(faces), "open")
    return replace(scan, sign_error=sign_error(scan)) if len(faces) else scan


def closed_by_filling(vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"], repaired: Mesh) -> ClosedScan | None:
    """Bring a repaired surface back onto the scan's vertices and part its triangles into scan and fills.

    Both surfaces have the same frame and exact positions; a repair may drop vertices and triangles, and split
    vertices, but not move any. None if the result is no better than the scan: vertices were moved, much of the scan
    was lost, or its inside came out.
    """
    ordered = _appended(vertices, faces, repaired)
    if ordered is not None:
        return None if _volume(vertices, ordered) <= 0 else ClosedScan(vertices, ordered, len(faces), "holes filled")
    n = len(vertices)
    keep, index = weld(np.concatenate([vertices, repaired.vertices]))
    place = keep[index]
    if not len(repaired.faces) or (place[n:][repaired.faces] >= n).any():
        return None
    of_scan = _triangle_keys(place[:n][faces], n)
    is_scan = np.isin(_triangle_keys(place[n:][repaired.faces], n), of_scan)
    if is_scan.sum() < _MIN_SURVIVING * len(faces):
        return None
    # A vertex that was split keeps its index once; its copies come after all others.
    first = np.unique(place[n:], return_index=True)[1]
    is_copy = np.ones(len(repaired.vertices), bool)
    is_copy[first] = False
    name = np.where(is_copy, n + np.cumsum(is_copy) - 1, place[n:])
    positions = np.concatenate([vertices, repaired.vertices[is_copy]])
    ordered = name[np.concatenate([repaired.faces[is_scan], repaired.faces[~is_scan]])]
    if _volume(positions, ordered) <= 0:
        return None
    return ClosedScan(positions, ordered, int(is_scan.sum()), "holes filled")


def closed_by_poisson(points: Float[ndarray, "n 3"], surface: Mesh, *, max_fill_spacings: float) -> ClosedScan | None:
    """Part a surface that was laid through a point cloud into measured triangles and fills.

    Fills have a corner farther from all points than `max_fill_spacings` times the points' typical distance. None if
    nothing is near the points, or the surface is inside out.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    spacing = float(np.median(tree.query(points, k=2)[0][:, 1]))
    near = tree.query(surface.vertices, distance_upper_bound=max_fill_spacings * spacing)[0] < np.inf
    is_scan = near[surface.faces].all(axis=1)
    if not is_scan.any() or _volume(surface.vertices, surface.faces) <= 0:
        return None
    faces = np.concatenate([surface.faces[is_scan], surface.faces[~is_scan]])
    return ClosedScan(surface.vertices, faces, int(is_scan.sum()), "poisson")


def choose_fills(scan: ClosedScan) -> ClosedScan:
    """Keep all fills, those of small holes, or none: whichever signs distances near the scan best.

    A large, uneven rim, such as that of a face without the back of its head, is often filled by a sheet in front of
    the surface. The winding number then calls the outside inside, and the open scan's winding number is better.
    """
    n, fills = scan.n_scan_faces, scan.faces[scan.n_scan_faces :]
    probes = _probes(scan)
    # Winding numbers of parts of a surface add up: the scan's large part is looked at once.
    of_scan, of_fills = _winding(scan, scan.faces[:n], probes), _winding(scan, fills, probes)
    first = replace(scan, sign_error=_wrong_share(of_scan + of_fills))
    if first.sign_error <= _GOOD_SIGN_ERROR or not len(fills):
        return first
    small = fills[_small_patches(scan.vertices, fills)]
    options = [first]
    if 0 < len(small) < len(fills):
        error = _wrong_share(of_scan + _winding(scan, small, probes))
        faces = np.concatenate([scan.faces[:n], small])
        options.append(ClosedScan(scan.vertices, faces, n, "small holes filled", error))
    options.append(ClosedScan(scan.vertices, scan.faces[:n], n, "open", _wrong_share(of_scan)))
    # Of equals the one that is closed further.
    return min(options, key=lambda option: option.sign_error)


def is_closed(faces: Int[ndarray, "m 3"]) -> bool:
    """Tell whether a surface is watertight: each edge runs once in each direction."""
    if not len(faces):
        return False
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    n = int(faces.max()) + 1
    forward, backward = np.sort(start * n + end), np.sort(end * n + start)
    return bool((forward == backward).all() and (forward[1:] != forward[:-1]).all())


def sign_error(scan: ClosedScan) -> float:
    """Give the share of the scan's area where the winding number clearly contradicts the scan's own normals.

    Probed one millimetre to both sides of triangles that are spread evenly over the area.
    """
    return _wrong_share(_winding(scan, scan.faces, _probes(scan)))


def _probes(scan: ClosedScan) -> Float[ndarray, "n 3"]:
    """Give points outside of the scan's surface, and then as many inside."""
    measured = scan.faces[: scan.n_scan_faces]
    normals, areas = face_normals(scan.vertices, measured)
    along = np.cumsum(areas)
    picked = np.searchsorted(along, (np.arange(_N_PROBES) + 0.5) / _N_PROBES * along[-1])
    centres, offset = scan.vertices[measured[picked]].mean(axis=1), _PROBE_MM * normals[picked]
    return np.concatenate([centres + offset, centres - offset])


def _winding(scan: ClosedScan, faces: Int[ndarray, "m 3"], points: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
    return WindingNumber(scan.vertices, faces).at(points) if len(faces) else np.zeros(len(points))


def _wrong_share(winding: Float[ndarray, " n"]) -> float:
    outside, inside = winding[:_N_PROBES], winding[_N_PROBES:]
    return float(((outside > 0.5 + _SURE) | (inside < 0.5 - _SURE)).mean())


def _small_patches(vertices: Float[ndarray, "n 3"], fills: Int[ndarray, "m 3"]) -> ndarray:
    label = connected_components(fills, len(vertices))[fills[:, 0]]
    n = int(label.max()) + 1
    low, high = np.full((n, 3), np.inf), np.full((n, 3), -np.inf)
    np.minimum.at(low, label, vertices[fills].min(axis=1))
    np.maximum.at(high, label, vertices[fills].max(axis=1))
    return np.linalg.norm(high - low, axis=1)[label] <= _SMALL_HOLE_MM


def warnings_of(closed: ClosedScan, registered: SurfaceCheck, template: MeshQuality) -> list[str]:
    """Tell what a user should look at."""
    out = []
    if closed.sign_error > _BAD_SIGN_ERROR:
        out.append(f"inside and outside are mistaken near {closed.sign_error:.0%} of the scan's surface")
    loops, expected = registered.quality.n_boundary_loops, template.n_boundary_loops
    if loops != expected:
        out.append(f"the registered mesh has {loops} boundary loops, its template has {expected}")
    if registered.quality.n_misoriented_edges or not registered.quality.is_manifold:
        out.append("the registered mesh is no consistently oriented manifold")
    return out


def _triangle_keys(faces: Int[ndarray, "m 3"], n_vertices: int) -> ndarray:
    """Give one number for each triangle that does not depend on where it starts; its side does count."""
    first = faces.argmin(axis=1)[:, None]
    a, b, c = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1).T
    if n_vertices > _MAX_VERTICES:
        raise ValueError(f"{n_vertices} vertices are too many to number their triangles, at most {_MAX_VERTICES}")
    return (a * n_vertices + b) * n_vertices + c


def _appended(
    vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"], repaired: Mesh
) -> Int[ndarray, "k 3"] | None:
    """Give the triangles on the scan's vertices if the repair did nothing but add some at the end, the usual case."""
    used = np.zeros(len(vertices), bool)
    used[faces.ravel()] = True
    name = np.flatnonzero(used)
    if len(name) != repaired.n_vertices or len(faces) > repaired.n_faces:
        return None
    ordered = name[repaired.faces]
    same = (vertices[name] == repaired.vertices).all() and (ordered[: len(faces)] == faces).all()
    return ordered if same else None


def _volume(vertices: ndarray, faces: ndarray) -> float:
    # From the middle, so that what is left open of a surface hardly counts.
    a, b, c = np.moveaxis((vertices - vertices[faces[:, 0]].mean(axis=0))[faces], 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)
