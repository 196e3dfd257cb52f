"""Repairs of a scan's triangles that leave its vertices alone: which triangles stay, and which way round they are.

Vertices keep their number, order and position, so that whatever names them stays valid; those without triangle are
simply not used.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.components import component_areas, connected_components
from nphm_core.geometry.mesh import Mesh, Texture, face_normals, unique_edges

_SPIKE_EDGES = 2.0
"""A spike inside the surface has edges this many times the median; smaller ones are roughness."""
_SPIKE_ANGLE_RAD = 2.6
"""Angle sum around the tip of such a spike: 6.28 on a plane, 2.6 for a cone of 48 degrees."""
_FRINGE_EDGES = 4.0
_FRINGE_ANGLE_RAD = 0.35
"""Angle sum at a border vertex that stands out like a needle, if its edges are that long too."""
_SPIKE_ROUNDS = 4
_SURE_SHARE = 0.1
"""Share of the flux through a piece that is enough to call one side its outside."""
_LARGE_PIECE = 0.05


def select_faces(mesh: Mesh, keep: Bool[ndarray, " n_faces"]) -> Mesh:
    """Give the mesh with some of its triangles, and all of its vertices."""
    texture = None if mesh.texture is None else Texture(mesh.texture.uv[keep], mesh.texture.image)
    return replace(mesh, faces=mesh.faces[keep], texture=texture)


def share_vertices(mesh: Mesh) -> tuple[Mesh, int]:
    """Let triangles name the first of vertices at exactly one place, and count the vertices thus left unused.

    Exporters split vertices at texture seams, which would tear the surface there.
    """
    from nphm_core.io.scan_file import weld

    keep, index = weld(mesh.vertices)
    n_shared = mesh.n_vertices - len(keep)
    return (mesh, 0) if n_shared == 0 else (replace(mesh, faces=keep[index][mesh.faces]), n_shared)


def drop_bad_faces(mesh: Mesh) -> tuple[Mesh, int, int]:
    """Drop triangles with a repeated corner, then all but the first of those with the same three corners; count both.

    Triangles without area but with three corners stay: without them their neighbours would no longer meet.
    """
    f = mesh.faces
    degenerate = (f[:, 0] == f[:, 1]) | (f[:, 1] == f[:, 2]) | (f[:, 2] == f[:, 0])
    if degenerate.any():
        mesh = select_faces(mesh, ~degenerate)
    rows = np.sort(mesh.faces, axis=1)
    order = np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))
    repeated = np.zeros(len(rows), bool)
    # lexsort is stable: the first of equal rows in the file is the first here.
    repeated[order[1:]] = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    if repeated.any():
        mesh = select_faces(mesh, ~repeated)
    return mesh, int(degenerate.sum()), int(repeated.sum())


def drop_spikes(mesh: Mesh) -> tuple[Mesh, int]:
    """Drop triangles at the tips of spikes, which scanners make at edges and highlights, and count them."""
    n_before, typical = mesh.n_faces, 0.0
    for round_ in range(_SPIKE_ROUNDS):
        edges, count = unique_edges(mesh.faces)
        length = np.linalg.norm(mesh.vertices[edges[:, 0]] - mesh.vertices[edges[:, 1]], axis=1)
        if round_ == 0 and len(length):
            typical = float(np.median(length))
        hit = _spike_tips(mesh, edges, length, count, typical)[mesh.faces].any(axis=1)
        if not hit.any() or hit.all():
            break
        mesh = select_faces(mesh, ~hit)
    return mesh, n_before - mesh.n_faces


def _spike_tips(mesh: Mesh, edges: ndarray, length: ndarray, count: ndarray, typical: float) -> ndarray:
    n = mesh.n_vertices
    # Few vertices have only long edges: the angles are needed there alone.
    far = np.ones(n, bool)
    far[edges[length <= _SPIKE_EDGES * typical].ravel()] = False
    shortest = np.full(n, np.inf)
    long = far[edges].any(axis=1)
    for side in range(2):
        np.minimum.at(shortest, edges[long, side], length[long])
    border = np.zeros(n, bool)
    border[edges[count == 1].ravel()] = True
    at_far = mesh.faces[far[mesh.faces].any(axis=1)]
    angle = np.bincount(at_far.ravel(), _corner_angles(mesh.vertices[at_far]).ravel(), minlength=n)
    inside = ~border & (angle < _SPIKE_ANGLE_RAD)
    fringe = border & (angle < _FRINGE_ANGLE_RAD) & (shortest > _FRINGE_EDGES * typical)
    return far & (angle > 0) & (inside | fringe)


def _corner_angles(corners: Float[ndarray, "n 3 3"]) -> Float[ndarray, "n 3"]:
    out = np.empty(corners.shape[:2])
    for k in range(3):
        a, b = corners[:, (k + 1) % 3] - corners[:, k], corners[:, (k + 2) % 3] - corners[:, k]
        cross = np.cross(a, b)
        out[:, k] = np.arctan2(np.sqrt((cross * cross).sum(1)), (a * b).sum(1))
    return out


@dataclass(frozen=True)
class Pieces:
    """What became of a surface's connected pieces."""

    mesh: Mesh
    areas: Float[ndarray, " n_pieces"]
    """Of all pieces, largest first."""
    n_kept: int
    n_dropped_faces: int
    is_scattered: bool
    """The pieces are so many and small that none is the scan: all were kept."""


def keep_large_pieces(mesh: Mesh, min_share: float) -> Pieces:
    """Keep pieces with at least `min_share` of the surface's area, and the largest in any case.

    Two heads in one scan both stay: which of them is meant is not decided here.
    """
    label = connected_components(mesh.faces, mesh.n_vertices)
    of_face = label[mesh.faces[:, 0]]
    areas = component_areas(mesh.vertices, mesh.faces, label)
    has_faces = np.bincount(of_face, minlength=len(areas)) > 0
    total = areas.sum()
    large = has_faces & (areas >= min(min_share * total, areas.max(initial=0.0)))
    sizes = np.sort(areas[has_faces])[::-1]
    if areas[large].sum() < 0.5 * total:
        return Pieces(mesh, sizes, len(sizes), 0, True)
    keep = large[of_face]
    return Pieces(select_faces(mesh, keep), sizes, int(large.sum()), int((~keep).sum()), False)


@dataclass(frozen=True)
class Orientation:
    """Which triangles were turned, and how sure the outside is."""

    mesh: Mesh
    n_inconsistent: int
    """Triangles turned so that neighbours agree."""
    is_inside_out: bool
    """The scan as delivered showed its inside; it was turned."""
    outward_share: float
    """Flux of the positions through the result over its largest possible value: 1 for a ball, 0 for a plane."""


def orient_outwards(mesh: Mesh) -> Orientation:
    """Turn triangles so that neighbours agree and normals point out of the head.

    The outside of a piece is where its normals point away from its centre, as they do on a head or on a face without
    its back. Where that is unclear the delivered side stays.
    """
    faces, patch = _consistent(mesh.faces)
    turned = (faces != mesh.faces).any(axis=1)
    normals, areas = face_normals(mesh.vertices, faces)
    centres = mesh.vertices[faces].mean(axis=1)
    n_patches = int(patch.max(initial=0)) + 1
    flux, most = _flux(centres, normals, areas, patch, n_patches)
    # Of two consistent choices for a patch take the one that leaves most of its area as delivered.
    was_turned = np.bincount(patch, areas * turned, minlength=n_patches)
    size = np.bincount(patch, areas, minlength=n_patches)
    flip = was_turned > 0.5 * size
    delivered = np.where(flip, -flux, flux)
    is_inside_out = bool(delivered.sum() < -_SURE_SHARE * most.sum())
    clear = (np.abs(flux) > _SURE_SHARE * most) & (size > _LARGE_PIECE * size.sum())
    flip = np.where(clear, flux < 0, flip ^ is_inside_out)
    out = np.where(flip[patch][:, None], faces[:, [0, 2, 1]], faces)
    share = float(np.where(flip, -flux, flux).sum() / max(most.sum(), 1e-300))
    changed = _is_turned(mesh.faces, out)
    n_inconsistent = int((~changed if is_inside_out else changed).sum())
    return Orientation(turn_faces(mesh, changed), n_inconsistent, is_inside_out, share)


def turn_faces(mesh: Mesh, turn: Bool[ndarray, " n_faces"]) -> Mesh:
    """Give the mesh with some triangles the other way round."""
    if not turn.any():
        return mesh
    faces = np.where(turn[:, None], mesh.faces[:, [0, 2, 1]], mesh.faces)
    texture = mesh.texture
    if texture is not None:
        texture = Texture(np.where(turn[:, None, None], texture.uv[:, [0, 2, 1]], texture.uv), texture.image)
    return replace(mesh, faces=faces, texture=texture)


def _consistent(faces: Int[ndarray, "n 3"]) -> tuple[Int[ndarray, "n 3"], Int[ndarray, " n"]]:
    """Turn triangles of each orientable patch to agree; the patches break at edges of more than two triangles."""
    if _agree(faces):
        return faces, connected_components(faces, int(faces.max(initial=-1)) + 1)[faces[:, 0]]
    import igl

    out, patch = igl.bfs_orient(faces)
    out = np.asarray(out, np.int64)
    # igl turns a triangle by swapping other corners than we do.
    return np.where(_is_turned(faces, out)[:, None], faces[:, [0, 2, 1]], faces), np.asarray(patch, np.int64).ravel()


def _agree(faces: Int[ndarray, "n 3"]) -> bool:
    """Tell whether no two triangles run along an edge the same way, which also fails where more than two meet."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    key = np.sort(start * (int(faces.max(initial=0)) + 1) + end)
    return not (key[1:] == key[:-1]).any()


def _is_turned(before: ndarray, after: ndarray) -> ndarray:
    same = np.zeros(len(before), bool)
    for shift in range(3):
        same |= (np.roll(before, shift, axis=1) == after).all(axis=1)
    return ~same


def _flux(centres: ndarray, normals: ndarray, areas: ndarray, patch: ndarray, n: int) -> tuple[ndarray, ndarray]:
    size = np.maximum(np.bincount(patch, areas, minlength=n), 1e-300)
    middle = np.stack([np.bincount(patch, areas * centres[:, k], minlength=n) / size for k in range(3)], axis=1)
    arm = centres - middle[patch]
    through = np.bincount(patch, areas * (arm * normals).sum(axis=1), minlength=n)
    return through, np.bincount(patch, areas * np.linalg.norm(arm, axis=1), minlength=n)
