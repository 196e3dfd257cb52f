import dataclasses

import numpy as np
import pytest

from nphm_core.config import ArapConfig
from nphm_core.errors import RegistrationError
from nphm_core.geometry.mesh import boundary_vertices, vertex_normals
from nphm_core.geometry.quality import flipped_triangles
from nphm_core.geometry.subdivision import loop_subdivision, subdivide_surface, subdivision_hierarchy
from nphm_core.registration.arap import register_arap, trust_of_regions
from nphm_core.registration.arap_level import RigidLevel
from nphm_core.registration.arap_repair import crossing_depths, crossing_faces, repair
from nphm_core.registration.arap_rest import opened_rest
from nphm_core.registration.correspondences import Correspondences, ScanTarget, Trust, smoothed_cloud
from nphm_core.registration.rims import RimPair, rim_pairs
from nphm_core.registration.scan_surface import ScanSurface

OCTAHEDRON = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
OCTAHEDRON_FACES = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])


def directions(levels):
    vertices, faces = OCTAHEDRON, OCTAHEDRON_FACES
    for _ in range(levels):
        step = loop_subdivision(faces, len(vertices), scheme="midpoint")
        vertices, faces = step.matrix @ vertices, step.faces
        vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, faces


def bumpy_sphere(levels):
    """A closed body of head size without symmetry, mm."""
    d, faces = directions(levels)
    x, y, z = d.T
    radius = 90 + 12 * x * y + 9 * np.sin(3 * z + 1) + 6 * np.cos(5 * x + 2 * y)
    return d * radius[:, None], faces


def bend(points, radius_mm=700.0):
    angle = points[:, 1] / radius_mm
    reach = radius_mm + points[:, 2]
    return np.stack([points[:, 0], reach * np.sin(angle), reach * np.cos(angle) - radius_mm], axis=1)


def surface_of(vertices, faces, keep=None):
    faces = faces if keep is None else faces[keep]
    n = len(vertices)
    return ScanSurface(
        vertices, faces, vertex_normals(vertices, faces), boundary_vertices(n, faces), np.ones(n), "none"
    )


def full_trust(n):
    return Trust.of(np.ones(n))


@pytest.fixture(scope="module")
def body():
    """Coarse rest pose, its faces, two subdivisions, and the finest rest pose."""
    rest, faces = bumpy_sphere(3)
    hierarchy = subdivision_hierarchy(faces, len(rest), 2)
    return rest, faces, hierarchy, subdivide_surface(hierarchy, faces, rest)


def register(body, scan, config=ArapConfig(), rest=None, trust=None, pairs=()):  # noqa: B008
    rest_, faces, hierarchy, _ = body
    rest = rest_ if rest is None else rest
    trust = full_trust(len(rest_)) if trust is None else trust
    return register_arap(rest, faces, hierarchy, ScanTarget(scan), config, trust=trust, pairs=pairs)


def test_registration_recovers_a_known_bend():
    # A sheet rolled up without stretching: rigidity alone says where its points go, the surface does not.
    x, y = np.meshgrid(np.linspace(-60, 60, 21), np.linspace(-60, 60, 21), indexing="ij")
    rest = np.stack([x.ravel(), y.ravel(), 4 * np.sin(x.ravel() / 12) * np.cos(y.ravel() / 15)], axis=1)
    i = np.arange(21 * 21).reshape(21, 21)
    a, b, c, d = i[:-1, :-1].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel(), i[:-1, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    hierarchy = subdivision_hierarchy(faces, len(rest), 2)
    fine = subdivide_surface(hierarchy, faces, rest)
    truth = bend(fine, 400.0)
    result = register((rest, faces, hierarchy, fine), surface_of(truth, hierarchy[-1].faces))
    before, after = (np.linalg.norm(points - truth, axis=1) for points in (fine, result.vertices))
    assert before.max() > 4.0
    assert np.median(after) < 0.15
    assert after.max() < 0.5
    assert np.percentile(result.distances_mm, 95) < 0.02
    assert result.n_flipped == 0
    assert np.median(result.weights) > 0.99


def test_a_rest_pose_that_fits_does_not_move(body):
    result = register(body, surface_of(body[3], body[2][-1].faces))
    assert np.abs(result.vertices - body[3]).max() < 1e-3


def test_registration_moves_with_the_frame(body):
    truth = bend(body[3])
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation, shift = q * np.sign(np.linalg.det(q)), np.array([300.0, -40.0, 120.0])
    faces = body[2][-1].faces
    result = register(body, surface_of(truth, faces))
    turned = register(body, surface_of(truth @ rotation.T + shift, faces), rest=body[0] @ rotation.T + shift)
    difference = np.linalg.norm(turned.vertices - (result.vertices @ rotation.T + shift), axis=1)
    assert np.median(difference) < 1e-3
    assert difference.max() < 0.05


def test_unseen_part_follows_rigidly(body):
    angle = 0.02
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    truth = body[3] @ rotation.T + [0.5, -1.0, 0.3]
    faces = body[2][-1].faces
    seen = truth[faces].mean(1)[:, 2] > -20
    result = register(body, surface_of(truth, faces, seen))
    unseen = truth[:, 2] < -45
    assert (result.weights[unseen] == 0).all()
    # To the place that only a rigid motion of the whole explains.
    before, after = (np.linalg.norm(points - truth, axis=1)[unseen] for points in (body[3], result.vertices))
    assert before.mean() > 1.2
    assert after.mean() < 0.4 * before.mean()
    assert after.max() < 1.0


def test_vertices_without_trust_ignore_the_scan(body):
    truth = body[3] + 1.5 * vertex_normals(body[3], body[2][-1].faces)
    trust = Trust.of((body[0][:, 2] < 0).astype(float))
    result = register(body, surface_of(truth, body[2][-1].faces), trust=trust)
    assert (result.weights[body[3][:, 2] > 20] == 0).all()
    assert np.median(result.distances_mm[body[3][:, 2] < -20]) < 0.02


@pytest.fixture(scope="module")
def swollen(body):
    """A scan whose upper half lies 5 mm outside the rest pose, and a mark of another colour on it."""
    rest, faces = body[3], body[2][-1].faces
    rise = 5.0 * np.clip((rest[:, 1] - 10.0) / 30.0, 0, 1)
    scan = surface_of(rest + rise[:, None] * vertex_normals(rest, faces), faces)
    top = rest[rest[:, 1].argmax()]
    marked = np.linalg.norm(rest - top, axis=1) < 12.0
    return dataclasses.replace(scan, bare=(~marked).astype(float)), marked, rise


def upper_half(body):
    return {"hair_prone": body[0][:, 1] > 10.0}


def test_a_scan_outside_the_scalp_is_hair(body, swollen):
    scan, _, rise = swollen
    result = register(body, scan, trust=trust_of_regions(upper_half(body), len(body[0])))
    risen = np.linalg.norm(result.vertices - body[3], axis=1)
    assert (risen[rise > 4.9] < 2.0).all()


def test_a_bald_scalp_is_followed_and_its_marks_are_bridged(body, swollen):
    scan, marked, rise = swollen
    result = register(body, scan, trust=trust_of_regions(upper_half(body), len(body[0]), is_bald=True))
    followed = (rise > 4.9) & ~marked & (result.weights > 0)
    assert followed.sum() > 0.8 * ((rise > 4.9) & ~marked).sum()
    assert np.quantile(result.distances_mm[followed], 0.95) < 0.1
    assert (result.weights[marked] == 0).any()
    # The rest pose would leave a dent of 5 mm.
    assert result.distances_mm[marked].max() < 1.0


def test_ears_of_a_bald_head_are_trusted_as_before():
    regions = {"hair_prone": np.array([True, True, False]), "ears": np.array([False, True, False])}
    np.testing.assert_array_equal(trust_of_regions(regions, 3, is_bald=True).bald, [1, 0, 0])
    np.testing.assert_array_equal(trust_of_regions(regions, 3).bald, [0, 0, 0])


def test_a_point_cloud_with_normals_is_enough(body):
    truth = bend(body[3])
    scan = surface_of(truth, body[2][-1].faces)
    cloud = ScanSurface(
        scan.vertices, np.empty((0, 3), np.int64), scan.normals, np.zeros(len(truth), bool), scan.bare, "none"
    )
    result = register(body, cloud)
    assert np.percentile(result.distances_mm, 95) < 0.1


def test_outliers_do_not_pull(body):
    truth, faces = bend(body[3]), body[2][-1].faces
    ball, ball_faces = directions(2)
    ball = 8 * ball + truth[truth[:, 2].argmax()] + [0, 0, 14.0]
    vertices = np.concatenate([truth, ball])
    scan = surface_of(vertices, np.concatenate([faces, ball_faces + len(truth)]))
    result = register(body, scan)
    clean = ScanTarget(surface_of(truth, faces))._closest.query(result.vertices).distance
    assert clean.max() < 0.5


def test_one_step_agrees_with_a_sparse_solver():
    from scipy.sparse import block_diag, coo_matrix, diags, kron
    from scipy.sparse.linalg import spsolve

    vertices, faces = bumpy_sphere(2)
    rng = np.random.default_rng(0)
    start = bend(vertices)
    n = len(vertices)
    normals = vertex_normals(vertices, faces)
    data = Correspondences(
        start + rng.normal(size=(n, 3)),
        normals,
        rng.uniform(0, 1, n),
        0.1 * rng.uniform(0, 1, n),
        np.zeros(n),
        np.ones(n),
    )
    level = RigidLevel(vertices, faces)
    found, _ = level.solve(start, data, 0.7, tolerance=1e-12, max_steps=2000)

    # The same energy, written from its definition: triangles, their edges, the three rotations at each.
    rotations = slow_rotations(vertices, start, faces, level._cotangents)
    rows, cols, values, right = [], [], [], np.zeros((n, 3))
    for f, face in enumerate(faces):
        for k in range(3):
            i, j, w = face[k], face[(k + 1) % 3], 0.7 * level._cotangents[f, (k + 2) % 3]
            rows += [i, j, i, j]
            cols += [i, j, j, i]
            values += [w, w, -w, -w]
            edge = w * rotations[face].mean(0) @ (vertices[j] - vertices[i])
            right[j] += edge
            right[i] -= edge
    laplacian = kron(coo_matrix((values, (rows, cols)), (n, n)).tocsr(), diags(np.ones(3)))
    planes = [
        w * np.outer(m, m) + p * np.eye(3) for w, p, m in zip(data.weights, data.point_weights, normals, strict=True)
    ]
    right += np.stack([b @ q for b, q in zip(planes, data.points, strict=True)])
    expected = spsolve((laplacian + block_diag(planes)).tocsc(), right.ravel()).reshape(n, 3)
    assert np.abs(found - expected).max() < 1e-3  # rotations converge to about 1e-4 rad


def slow_rotations(rest, vertices, faces, cotangents):
    covariance = np.zeros((len(rest), 3, 3))
    for f, face in enumerate(faces):
        total = np.zeros((3, 3))
        for k in range(3):
            i, j = face[k], face[(k + 1) % 3]
            total += cotangents[f, (k + 2) % 3] * np.outer(vertices[j] - vertices[i], rest[j] - rest[i])
        covariance[face] += total
    out = np.empty_like(covariance)
    for i, s in enumerate(covariance):
        u, _, vt = np.linalg.svd(s)
        out[i] = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return out


def test_flipped_triangles_are_relaxed():
    vertices, faces = bumpy_sphere(3)
    level = RigidLevel(vertices, faces)
    normals = vertex_normals(vertices, faces)
    broken = vertices.copy()
    # One vertex is pulled through its neighbourhood by a wrong correspondence.
    ring = faces[(faces == 0).any(1)]
    broken[0] += 2.5 * (vertices[ring[0][ring[0] != 0]].mean(0) - vertices[0])
    weights = np.ones(len(vertices))
    data = Correspondences(broken, normals, weights, weights, 0 * weights, np.zeros(len(vertices)))
    assert len(flipped_triangles(broken, vertices, faces))
    repaired = repair(level, broken, data, 0.05, [])
    assert repaired.n_flipped == 0
    assert not len(flipped_triangles(repaired.vertices, vertices, faces))
    assert repaired.data.weights[0] == 0
    assert np.linalg.norm(repaired.vertices - vertices, axis=1).max() < 2.0


def test_lips_that_cross_are_found_and_pushed_apart():
    lips, faces, pair = two_lips(gap=1.0)
    crossed, _, _ = sagging_lips()
    depth, _ = crossing_depths(crossed, faces, pair)
    assert 0.3 < depth.max() < 0.7
    assert len(crossing_faces(crossed, faces, pair)) > 0
    assert not crossing_depths(lips, faces, pair)[0].any()
    level = RigidLevel(lips, faces)
    weights = np.full(len(lips), 0.5)
    data = Correspondences(crossed, np.zeros_like(crossed), 0 * weights, weights, 0 * weights, 0 * weights)
    repaired = repair(level, crossed, data, 1.0, [pair])
    assert repaired.n_crossed == 0
    assert len(crossing_faces(repaired.vertices, faces, pair)) == 0
    assert crossing_depths(repaired.vertices, faces, pair)[0].max() < 0.1


def sagging_lips():
    """Two lips, the same with the upper one sunk into the lower one, and what tells them apart."""
    lips, faces, pair = two_lips(gap=1.0)
    sag = np.exp(-(((lips[:, 0] - 5.5) ** 2 + (lips[:, 2] - 5.5) ** 2) / 8))
    crossed = lips.copy()
    crossed[pair.upper > 0.5, 1] -= 1.6 * sag[pair.upper > 0.5]
    return crossed, faces, pair


def test_crossings_are_taken_out_of_the_rest_pose_on_all_levels():
    crossed, faces, pair = sagging_lips()
    hierarchy = subdivision_hierarchy(faces, len(crossed), 1)
    finest = subdivide_surface(hierarchy, faces, crossed)
    fine = pair.subdivided(hierarchy[0])
    assert len(crossing_faces(finest, hierarchy[0].faces, fine)) > 20
    opened = opened_rest(finest, faces, hierarchy, [pair])
    assert len(crossing_faces(opened, hierarchy[0].faces, fine)) == 0
    assert np.linalg.norm(opened - finest, axis=1).max() < 1.0


def test_a_rest_pose_without_crossings_stays_what_it_is():
    lips, faces, pair = two_lips(gap=1.0)
    hierarchy = subdivision_hierarchy(faces, len(lips), 1)
    finest = subdivide_surface(hierarchy, faces, lips)
    assert opened_rest(finest, faces, hierarchy, [pair]) is finest
    assert opened_rest(lips, faces, [], [pair]) is lips


def two_lips(gap):
    """Two slabs' facing sides: sheets in y that look at each other."""
    n = 12
    x, z = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float), indexing="ij")
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1].ravel(), i[1:, :-1].ravel(), i[1:, 1:].ravel(), i[:-1, 1:].ravel()
    down = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    lower = np.stack([x.ravel(), np.zeros(n * n), z.ravel()], axis=1)
    upper = lower + np.array([0.31, gap, 0.17])
    upper_faces, lower_faces = down, down[:, ::-1] + n * n
    vertices = np.concatenate([upper, lower])
    faces = np.concatenate([upper_faces, lower_faces])
    assert vertex_normals(vertices, faces)[0, 1] < 0
    mark = np.arange(2 * n * n) < n * n
    return vertices, faces, RimPair(mark.astype(float), (~mark).astype(float), 0.0 * mark, 0.0 * mark, vertices)


def test_eyelids_are_told_apart_by_the_line_through_the_corners():
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([15 * np.cos(angle) + 32, 5 * np.sin(angle) + 0.1 * np.cos(angle), np.zeros(24)], axis=1)
    outer = ring * [1, 1, 1] + np.stack([4 * np.cos(angle), 4 * np.sin(angle), np.ones(24)], axis=1)
    vertices = np.concatenate([ring, outer])
    i = np.arange(24)
    j = (i + 1) % 24
    faces = np.concatenate([np.stack([i, i + 24, j], 1), np.stack([j, i + 24, j + 24], 1)])
    lids = np.arange(48) < 24
    (pair,) = rim_pairs(vertices, faces, {"eyelids": lids})
    top, bottom = ring[:, 1] > 2, ring[:, 1] < -2
    assert (pair.upper[:24][top] == 1).all()
    assert (pair.lower[:24][bottom] == 1).all()
    assert not (pair.upper * pair.lower).any()


def test_rims_that_have_passed_each_other_overlap_by_the_distance_between_them():
    angle = np.linspace(0, np.pi, 30)
    arc = np.stack([15 * np.cos(angle), 6 * np.sin(angle), np.zeros(30)], axis=1)
    neutral = np.concatenate([arc, arc * [1, -1, 1]])
    upper = (np.arange(60) < 30).astype(float)
    pair = RimPair(upper, 1 - upper, upper, 1 - upper, neutral)
    opening = pair.opening(neutral)
    assert np.allclose(opening, [0, 1, 0], atol=1e-12)
    assert not pair.overlaps(neutral, opening)[[15, 45]].any()
    # The upper lid comes down 14 mm: 2 mm beyond the lower one in the middle.
    closed = neutral - np.outer(upper, [0, 14.0, 0])
    assert np.abs(pair.overlaps(closed, opening)[[15, 45]] - 2.0).max() < 0.15


def test_a_noisy_cloud_is_smoothed_towards_its_surface():
    vertices, faces = bumpy_sphere(5)
    normals = vertex_normals(vertices, faces)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.3, (len(vertices), 1))
    points, smooth = smoothed_cloud(vertices + noise * normals, normals)
    distance = np.abs(((points - vertices) * normals).sum(1))
    assert np.median(distance) < 0.6 * np.median(np.abs(noise))
    assert np.abs(np.linalg.norm(smooth, axis=1) - 1).max() < 1e-9


def test_loose_parts_follow_their_surroundings(body):
    rest, faces = body[0], body[1]
    ball, ball_faces = directions(1)
    ball = 6 * ball + rest[rest[:, 2].argmax()] * 0.85
    all_rest, all_faces = np.concatenate([rest, ball]), np.concatenate([faces, ball_faces + len(rest)])
    hierarchy = subdivision_hierarchy(all_faces, len(all_rest), 1)
    shift = np.array([0.4, 0.2, -0.3])
    truth = subdivide_surface(hierarchy, all_faces, all_rest) + shift
    trust = trust_of_regions({"eyeballs": np.arange(len(all_rest)) >= len(rest)}, len(all_rest))
    skin = subdivision_hierarchy(faces, len(rest), 1)
    scan = surface_of(subdivide_surface(skin, faces, rest) + shift, skin[-1].faces)
    result = register_arap(all_rest, all_faces, hierarchy, ScanTarget(scan), ArapConfig(), trust=trust)
    assert np.abs(result.vertices - truth).max() < 0.1


def test_a_scan_elsewhere_is_an_error(body):
    with pytest.raises(RegistrationError, match="no vertex of the fitted template"):
        register(body, surface_of(body[3] + [500.0, 0, 0], body[2][-1].faces))


def test_a_scan_seen_from_inside_is_an_error(body):
    with pytest.raises(RegistrationError, match="normals"):
        register(body, surface_of(body[3], body[2][-1].faces[:, ::-1]))


def test_the_finest_rest_pose_gives_the_same_as_the_coarse_one(body):
    scan = surface_of(bend(body[3]), body[2][-1].faces)
    assert np.array_equal(register(body, scan).vertices, register(body, scan, rest=body[3]).vertices)
    with pytest.raises(ValueError, match="expected"):
        register(body, scan, rest=body[0][:-1])
