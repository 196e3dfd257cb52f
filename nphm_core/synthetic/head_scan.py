"""One synthetic scan: a posed, painted, hairy head, seen by a simulated sensor, with its truth.

The scan has a triangulation of its own, holes where no view looked, noise and loose pieces, as scans have. The truth
is the clean skin in the template's topology. Both are in the frame of the head model, in mm, until `deliver` puts them
into the unit and orientation in which a lab would hand the scan over.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.components import connected_components
from nphm_core.geometry.mesh import Mesh, vertex_normals
from nphm_core.geometry.rays import RayCaster
from nphm_core.geometry.sampling import interpolate
from nphm_core.spaces import Similarity
from nphm_core.synthetic.fusion import fuse_views
from nphm_core.synthetic.paint import PaintedPoints, paint
from nphm_core.synthetic.photograph import photograph
from nphm_core.synthetic.sensor import SensorSettings, scan_views
from nphm_core.synthetic.subject import ExpressionSpec, HeadSurface, PosedSurface, Subject
from nphm_core.template.model import Coefficients

VOXEL_MM = 2.0
_MIN_PIECE_VERTICES = 40
_N_SKY_RAYS = 24
_OFFSET_MM = 0.3
# Not an eyeball, redder than skin, in half shade.
_TONGUE_PAINT = (0.0, 0.6, 0.5)


@dataclass(frozen=True)
class ScanTruth:
    """What the generator knows of a scan; positions in the scan's metric space (mm)."""

    vertices: Float[ndarray, "n_template 3"]
    """The template's vertices on the clean skin, as subdivision leaves them."""
    hair_mm: Float[ndarray, " n_template"]
    """How far the scan lies above the skin there."""
    coefficients: Coefficients
    """Of the head model; the subject's own deviation comes on top."""
    T_metric_head: Similarity
    """From the model's frame in mm to the scan's metric space."""


@dataclass(frozen=True)
class SyntheticScan:
    """A scan as delivered, and its truth."""

    mesh: Mesh
    truth: ScanTruth


def make_scan(
    surface: HeadSurface,
    subject: Subject,
    expression: ExpressionSpec,
    settings: SensorSettings | None = None,
    *,
    rng: np.random.Generator,
    voxel_mm: float = VOXEL_MM,
    textured: bool = False,
) -> SyntheticScan:
    """Scan one subject in one expression: mm, the head model's frame, vertex colours or else photographs."""
    settings = settings or SensorSettings()
    posed = surface.pose(subject, expression)
    dark = posed.hair * (1 - np.clip(subject.hair.mean() / 0.45, 0, 1))
    views = scan_views(posed.vertices, posed.faces, dark, settings, rng=rng)
    vertices, faces = without_small_pieces(*fuse_views(views, voxel_mm=voxel_mm))
    lookup = ColourLookup(surface, posed, subject)
    if textured:
        mesh = Mesh(vertices, faces, texture=photograph(vertices, faces, lookup.at))
    else:
        mesh = Mesh(vertices, faces, colours=_grainy(lookup.at(vertices), rng))
    n = posed.n_template_vertices
    truth = ScanTruth(
        posed.skin[:n],
        np.linalg.norm(posed.vertices[:n] - posed.skin[:n], axis=1),
        surface.coefficients(subject, expression),
        Similarity.identity(),
    )
    return SyntheticScan(mesh, truth)


def deliver(scan: SyntheticScan, rotation: Float[ndarray, "3 3"], mm_per_unit: float) -> SyntheticScan:
    """Turn a scan and give it in another unit; the truth turns along and stays in mm."""
    turn = Similarity(1.0, rotation, np.zeros(3))
    truth = replace(
        scan.truth,
        vertices=turn.apply(scan.truth.vertices),
        T_metric_head=turn @ scan.truth.T_metric_head,
    )
    return SyntheticScan(scan.mesh.with_vertices(turn.apply(scan.mesh.vertices) / mm_per_unit), truth)


class ColourLookup:
    """Gives the painted colour of the surface at the points next to given ones."""

    def __init__(self, surface: HeadSurface, posed: PosedSurface, subject: Subject) -> None:
        """Prepare the search, and how much of the sky each vertex sees."""
        self._surface, self._posed, self._subject = surface, posed, subject
        self._closest = ClosestPoints(posed.vertices, posed.faces)
        head_map = surface.head_map
        parts = [head_map.eyeball.astype(float), head_map.inside.astype(float), _ambient(surface, posed)]
        painted = surface.refined(np.stack(parts, axis=1))
        painted = np.concatenate([painted, np.tile(_TONGUE_PAINT, (posed.n_tongue_vertices, 1))])
        self._values = np.concatenate([posed.material, painted, posed.hair[:, None]], axis=1)

    def at(self, points: Float[ndarray, "n 3"]) -> UInt8[ndarray, "n 3"]:
        """Give sRGB bytes, one colour a point."""
        found = self._closest.query(points)
        values = interpolate(self._values, self._posed.faces, found.face, found.barycentric)
        seen = PaintedPoints(
            material=values[:, :3], eyeball=values[:, 3], inside=values[:, 4], ambient=values[:, 5], hair=values[:, 6]
        )
        return paint(seen, self._surface.head_map, self._subject)


def without_small_pieces(
    vertices: Float[ndarray, "n 3"], faces: Int[ndarray, "m 3"]
) -> tuple[Float[ndarray, "k 3"], Int[ndarray, "l 3"]]:
    """Drop specks and vertices without faces; larger loose pieces stay, as scans have them."""
    label = connected_components(faces, len(vertices))
    used = np.zeros(len(vertices), bool)
    used[faces.ravel()] = True
    keep = used & (np.bincount(label)[label] >= _MIN_PIECE_VERTICES)
    new_index = np.cumsum(keep) - 1
    return vertices[keep], new_index[faces[keep[faces[:, 0]]]]


def _grainy(colours: UInt8[ndarray, "n 3"], rng: np.random.Generator) -> UInt8[ndarray, "n 3"]:
    noisy = colours * (1 + 0.02 * rng.standard_normal((len(colours), 1)))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _ambient(surface: HeadSurface, posed: PosedSurface) -> Float[ndarray, " n_template"]:
    """Give the share of the sky above the surface that each template vertex sees."""
    n = posed.n_template_vertices
    normals = vertex_normals(posed.vertices, posed.faces)[:n]
    # Directions of a Fibonacci sphere, each turned to the normal's side.
    i = np.arange(_N_SKY_RAYS) + 0.5
    z, angle = 1 - 2 * i / _N_SKY_RAYS, i * np.pi * (3 - np.sqrt(5))
    sphere = np.stack([np.sqrt(1 - z**2) * np.cos(angle), z, np.sqrt(1 - z**2) * np.sin(angle)], axis=1)
    cosine = normals @ sphere.T
    directions = (sphere[None] * np.sign(cosine)[:, :, None]).reshape(-1, 3)
    origins = np.repeat(posed.vertices[:n] + _OFFSET_MM * normals, _N_SKY_RAYS, axis=0)
    free = ~RayCaster(posed.vertices, posed.faces).cast(origins, directions).hit
    weight = np.abs(cosine)
    return (free.reshape(n, -1) * weight).sum(1) / weight.sum(1)
