"""Named vertex regions of any head template, from its geometry and its landmarks, without listed vertex ids.

Skin is the largest component. What can be seen from outside is told from what is hidden by casting rays; ears are what
stands out of a smooth head; hairline and jaw follow the detector's landmarks in spherical coordinates about the head's
middle. Lengths are in metres, as in the head model.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError
from nphm_core.geometry.components import component_areas, connected_components
from nphm_core.geometry.mesh import boundary_vertices, unique_edges, vertex_normals
from nphm_core.template.model import HeadModel
from nphm_core.template.template import LandmarkEmbedding
from nphm_core.template.visibility import open_share

# Numbers of MediaPipe's face mesh (google-ai-edge, face_mesh_connections): contours of the left half are the subject's.
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
RIGHT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
LEFT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
# The detector's face oval wanders over a head and is in no embedding: the two rings inside it are carried on outwards.
FOREHEAD = (151, 108, 69, 104, 68, 71, 139, 337, 299, 333, 298, 301, 368)
UNDER_FOREHEAD = (9, 107, 66, 105, 63, 70, 156, 336, 296, 334, 293, 300, 383)
JAW = (175, 171, 140, 170, 169, 135, 138, 396, 369, 395, 394, 364, 367)
CHIN = 175
OUTER_EYE_CORNERS = (33, 263)

_HIDDEN_SHARE = 0.03
_RIM_METRES = 0.007
_EAR_STANDS_OUT_METRES = 0.004
_HAIR_BAND_METRES = 0.015


@dataclass(frozen=True)
class _Head:
    """The mesh with what all regions need."""

    vertices: Float[ndarray, "n 3"]
    faces: Int[ndarray, "m 3"]
    edges: Int[ndarray, "e 2"]
    skin: Bool[ndarray, " n"]
    open_share: Float[ndarray, " n"]
    landmarks: dict[int, Float[ndarray, " 3"]]
    """By MediaPipe's numbers."""
    middle: Float[ndarray, " 3"]
    """Between the ears."""
    azimuth: Float[ndarray, " n"]
    """Around the vertical axis through the head's middle: 0 ahead, positive to the subject's left, in radians."""
    elevation: Float[ndarray, " n"]

    def seen(self) -> Bool[ndarray, " n"]:
        """Mark skin that can be seen from outside."""
        return self.skin & (self.open_share > _HIDDEN_SHARE)


def find_regions(model: HeadModel, landmarks: LandmarkEmbedding) -> dict[str, Bool[ndarray, " n_vertices"]]:
    """Give all regions of REGIONS for a head model whose landmarks are known.

    Raises TemplateError where the landmarks that bound the face are missing.
    """
    head = _measure(model, landmarks)
    lips, lids = _rims(head, (INNER_LIPS,)), _rims(head, (RIGHT_EYE, LEFT_EYE))
    lower = _moves_with_jaw(model, head, lips)
    ears = _ears(head)
    face, neck = _face_and_neck(head, ears)
    seen = head.seen()
    scalp = seen & ~(ears | face | neck)
    inside, eyeballs = _inner_parts(head, lips)
    near_hair = _within(head.vertices, scalp, _HAIR_BAND_METRES)
    behind = np.abs(head.azimuth) > np.abs(head.azimuth[ears]).mean()
    return {
        "face": face,
        "ears": ears,
        "scalp": scalp,
        "neck": neck,
        "lips_upper_rim": lips & ~lower,
        "lips_lower_rim": lips & lower,
        "eyelids": lids,
        "eyeballs": eyeballs,
        "mouth_interior": inside,
        "hidden": head.open_share <= _HIDDEN_SHARE,
        "hair_prone": seen & (scalp | near_hair | (neck & behind)),
        "boundary": boundary_vertices(model.n_vertices, model.faces),
    }


def _measure(model: HeadModel, embedding: LandmarkEmbedding) -> _Head:
    vertices, faces = model.v_template, model.faces
    trusted = set(embedding.index[embedding.weight > 0].tolist())
    landmarks = {i: point for i, point in embedding.by_index(vertices, faces).items() if i in trusted}
    needed = {*INNER_LIPS, *RIGHT_EYE, *LEFT_EYE, *FOREHEAD, *UNDER_FOREHEAD, *JAW}
    missing = sorted(needed - set(landmarks))
    if len(missing) > len(needed) // 3 or not {*OUTER_EYE_CORNERS, CHIN} <= set(landmarks):
        raise TemplateError(
            f"the landmark embedding lacks {len(missing)} of the {len(needed)} landmarks that bound face, eyes and "
            f"mouth ({missing[:8]}...); expected at most a third. Learn the embedding again with more views."
        )
    label = connected_components(faces, len(vertices))
    skin = label == component_areas(vertices, faces, label).argmax()
    corners = np.stack([landmarks[i] for i in OUTER_EYE_CORNERS])
    # Between the ears, in units of the distance between the outer eye corners.
    middle = corners.mean(axis=0) - float(np.linalg.norm(corners[1] - corners[0])) * np.array([0.0, 0.21, 0.86])
    middle[0] = 0.0
    azimuth, elevation = _angles(vertices - middle)
    edges, _ = unique_edges(faces)
    share = open_share(vertices, faces)
    return _Head(vertices, faces, edges, skin, share, landmarks, middle, azimuth, elevation)


def _angles(offset: Float[ndarray, "n 3"]) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    x, y, z = offset.T
    return np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))


def _hairline(head: _Head) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Give the upper border of the face: elevation over azimuth, made symmetric, azimuth rising from zero."""
    both = [(i, j) for i, j in zip(FOREHEAD, UNDER_FOREHEAD, strict=True) if {i, j} <= set(head.landmarks)]
    outer, inner = (
        np.stack(_angles(np.stack([head.landmarks[pair[k]] for pair in both]) - head.middle)) for k in (0, 1)
    )
    # One more step like the last from ring to ring, and a longer one sideways, where the rings lie closer.
    azimuth = np.abs(outer[0]) + 1.6 * (np.abs(outer[0]) - np.abs(inner[0]))
    elevation = outer[1] + (outer[1] - inner[1])
    order = np.argsort(azimuth)
    return azimuth[order], elevation[order]


def _ears(head: _Head) -> Bool[ndarray, " n"]:
    """Find what stands out sideways of a smooth surface through the head, and what lies within its outline."""
    seen = head.seen()
    low = head.landmarks[CHIN][1]
    level = np.abs(head.elevation) < np.deg2rad(45)
    used = np.flatnonzero(seen & (head.vertices[:, 1] > low))
    offset = head.vertices[used] - head.middle
    radius = np.linalg.norm(offset, axis=1)
    outward = _outliers(offset / radius[:, None], radius)
    side = np.zeros(len(seen), bool)
    side[used] = outward > _EAR_STANDS_OUT_METRES
    side &= level & (np.abs(head.azimuth) > np.deg2rad(55)) & (np.abs(head.azimuth) < np.deg2rad(135))
    ears = np.zeros(len(seen), bool)
    for sign in (-1.0, 1.0):
        ear = _largest_patch(side & (sign * head.azimuth > 0), head.edges)
        if not ear.any():
            raise TemplateError("the head model has no ear on one side; expected a whole head. Use another model.")
        inside = _in_hull(np.stack([head.azimuth, head.elevation], axis=1), ear)
        ears |= seen & inside & (sign * head.azimuth > 0)
    return ears


def _outliers(directions: Float[ndarray, "n 3"], radius: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Give how far points lie outside a robust polynomial of degree four in the direction."""
    x, y, z = directions.T
    powers = [(i, j, k) for i in range(5) for j in range(5 - i) for k in range(5 - i - j)]
    # Even powers of x only: the head is symmetric.
    basis = np.stack([x**i * y**j * z**k for i, j, k in powers if i % 2 == 0], axis=1)
    weight = np.ones(len(radius))
    for _ in range(20):
        root = np.sqrt(weight)
        coefficients = np.linalg.lstsq(basis * root[:, None], radius * root, rcond=None)[0]
        residual = radius - basis @ coefficients
        weight = 1 / (1 + (residual / 0.004) ** 2) ** 2
    return residual


def _largest_patch(mask: Bool[ndarray, " n"], edges: Int[ndarray, "e 2"]) -> Bool[ndarray, " n"]:
    """Keep the largest set of marked vertices that edges connect."""
    label = _patches(mask, edges)
    if not mask.any():
        return mask
    return mask & (label == np.bincount(label[mask]).argmax())


def _patches(mask: Bool[ndarray, " n"], edges: Int[ndarray, "e 2"]) -> Int[ndarray, " n"]:
    """Label marked vertices that edges among marked vertices connect."""
    inner = edges[mask[edges].all(axis=1)]
    return connected_components(np.column_stack([inner, inner[:, 1]]), len(mask))


def _in_hull(points: Float[ndarray, "n 2"], members: Bool[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Mark points in the convex hull of the members."""
    from scipy.spatial import ConvexHull

    equations = ConvexHull(points[members]).equations
    return (points @ equations[:, :2].T + equations[:, 2] <= 1e-9).all(axis=1)


def _face_and_neck(head: _Head, ears: Bool[ndarray, " n"]) -> tuple[Bool[ndarray, " n"], Bool[ndarray, " n"]]:
    """Divide the skin that is not ear: face ahead of the ears from jaw to hairline, neck below jaw and skull."""
    azimuth = np.abs(head.azimuth)
    front = float(np.quantile(azimuth[ears], 0.02))
    lobe = float(np.quantile(head.elevation[ears], 0.02))
    hairline = np.interp(azimuth, *_hairline(head))
    jaw = np.interp(azimuth, *_jaw_curve(head, front, lobe))
    rest = head.seen() & ~ears
    neck = rest & (head.elevation < jaw)
    face = rest & ~neck & (azimuth < front) & (head.elevation < hairline)
    # Slivers between ear and hairline belong to the face.
    scalp = rest & ~neck & ~face
    face |= scalp & ~_largest_patch(scalp, head.edges)
    return face, neck


def _jaw_curve(head: _Head, front: float, lobe: float) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Give the border of face and neck, elevation over azimuth: from the chin to the ear lobe and level behind it."""
    # These landmarks lie on the chin and cheek, the jaw's edge is a little below.
    margin = np.deg2rad(6)
    azimuth, elevation = _angles(np.stack([head.landmarks[i] for i in JAW if i in head.landmarks]) - head.middle)
    order = np.argsort(np.abs(azimuth))
    azimuth, elevation = np.abs(azimuth)[order], elevation[order]
    ahead = azimuth < front
    points = np.column_stack([np.append(azimuth[ahead], front), np.append(elevation[ahead] - margin, lobe)])
    kept: list[ndarray] = []
    for point in points:  # lower convex envelope, Andrew's scan: the landmarks' noise must not cut into the cheek
        while len(kept) > 1 and _left_turn(kept[-2], kept[-1], point) <= 0:
            kept.pop()
        kept.append(point)
    curve = np.stack([*kept, [np.pi, lobe]])
    return curve[:, 0], curve[:, 1]


def _left_turn(a: ndarray, b: ndarray, c: ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _rims(head: _Head, contours: tuple[tuple[int, ...], ...]) -> Bool[ndarray, " n"]:
    """Mark skin on both sides of the border of what is hidden, near closed contours of landmarks."""
    near = np.zeros(len(head.vertices), bool)
    for contour in contours:
        line = _dense_contour(np.stack([head.landmarks[i] for i in contour if i in head.landmarks]))
        near |= _near_points(head.vertices, line, _RIM_METRES)
    hidden = head.skin & ~head.seen()
    boundary = boundary_vertices(len(head.vertices), head.faces)
    crossing = head.edges[hidden[head.edges[:, 0]] != hidden[head.edges[:, 1]]]
    border = boundary.copy()
    border[crossing.ravel()] = True
    return border & near & head.skin


def _dense_contour(points: Float[ndarray, "n 3"], parts: int = 5) -> Float[ndarray, "m 3"]:
    share = np.arange(parts)[:, None, None] / parts
    return ((1 - share) * points + share * np.roll(points, -1, axis=0)).reshape(-1, 3)


def _near_points(vertices: Float[ndarray, "n 3"], points: Float[ndarray, "m 3"], radius: float) -> Bool[ndarray, " n"]:
    from scipy.spatial import cKDTree

    return cKDTree(points).query(vertices, distance_upper_bound=radius)[0] < radius


def _within(vertices: Float[ndarray, "n 3"], mask: Bool[ndarray, " n"], radius: float) -> Bool[ndarray, " n"]:
    return _near_points(vertices, vertices[mask], radius)


def _moves_with_jaw(model: HeadModel, head: _Head, lips: Bool[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Mark vertices of the lower lip: those that go down farther than the mouth's corners when the jaw opens.

    Without a jaw joint, those that face up.
    """
    if model.joint("jaw") is None or not lips.any():
        return vertex_normals(head.vertices, head.faces)[:, 1] > 0
    down = -(model.pose(rotations={"jaw": np.array([0.2, 0.0, 0.0])}) - head.vertices)[:, 1]
    rim = np.flatnonzero(lips)
    corners = rim[np.argsort(-np.abs(head.vertices[rim, 0]))[:6]]
    return down > down[corners].mean()


def _inner_parts(head: _Head, lips: Bool[ndarray, " n"]) -> tuple[Bool[ndarray, " n"], Bool[ndarray, " n"]]:
    """Give the mouth's inside (hidden skin behind the lips, and loose parts in it) and the eyeballs."""
    hidden = head.skin & ~head.seen()
    label = _patches(hidden, head.edges)
    inside = hidden & np.isin(label, np.unique(label[hidden & lips]))
    eyes = [np.mean([head.landmarks[i] for i in c if i in head.landmarks], axis=0) for c in (RIGHT_EYE, LEFT_EYE)]
    parts = connected_components(head.faces, len(head.vertices))
    eyeballs = np.zeros(len(hidden), bool)
    for part in np.unique(parts[~head.skin]):
        members = parts == part
        offset = np.abs(head.vertices[members].mean(axis=0) - np.stack(eyes)).max(axis=1)
        if offset.min() < 0.025:
            eyeballs |= members
        else:
            inside |= members
    return inside, eyeballs
