"""Landmarks of a file: names, checks against the scan, and what they do to detected ones."""

import dataclasses
import json

import numpy as np
import pytest

from nphm_core.errors import LandmarkFileError, ScanUnitError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import json_text
from nphm_core.io.landmark_file import NamedPoints
from nphm_core.registration.backproject import ScanLandmarks3D
from nphm_core.registration.face_geometry import FACE_SHAPE
from nphm_core.registration.given_landmarks import (
    GIVEN_WEIGHT,
    IBUG_LANDMARKS,
    NOW_LANDMARKS,
    GivenLandmarks,
    face_of_landmarks,
    given_landmarks,
    known_numbers,
    with_given_landmarks,
)
from nphm_core.spaces import Similarity

PLACES = {i: np.array(place, float) for i, place in FACE_SHAPE.items()}
WEIGHT = dict.fromkeys(PLACES, 1.0)


@pytest.fixture(scope="module")
def scan() -> tuple[Mesh, Similarity]:
    """A face made of the average face's landmarks, in metres, turned and far from its origin."""
    from scipy.spatial import Delaunay

    points = np.array(list(PLACES.values()))
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((3, 3)))[0]
    move = Similarity(1e-3, rotation * np.linalg.det(rotation), np.array([3.0, -1.0, 7.0]))
    faces = Delaunay(points[:, :2]).simplices.astype(np.int64)
    a, b, c = (points[faces[:, k]] for k in range(3))
    backwards = np.cross(b - a, c - a)[:, 2] < 0
    faces[backwards] = faces[backwards][:, ::-1]
    return Mesh(move.apply(points), faces), move


def points_of(scan, names, shift_mm=(0.0, 0.0, 0.0)) -> NamedPoints:
    numbers = known_numbers(tuple(names))
    return NamedPoints(tuple(names), scan[1].apply(np.array([PLACES[n] for n in numbers]) + shift_mm))


def check(scan, named, limit=5.0) -> GivenLandmarks:
    return given_landmarks(named, scan[0], max_distance_mm=limit)


def test_now_landmarks_are_found_by_name_in_any_spelling():
    spelt = tuple(name.replace("_", " ").title() for name in NOW_LANDMARKS)
    assert known_numbers(spelt) == known_numbers(tuple(NOW_LANDMARKS)) == list(NOW_LANDMARKS.values())
    assert known_numbers(tuple("1234567")) == list(NOW_LANDMARKS.values())


def test_ibug_points_are_the_subjects_sides():
    """The first eye of iBUG's numbering is the subject's right one."""
    sets = known_numbers(tuple(f"ibug_{k}" for k in range(68)))
    assert (
        sets == known_numbers(tuple(str(k) for k in range(68))) == known_numbers(tuple(str(k + 1) for k in range(68)))
    )
    assert (sets[36], sets[45], sets[48], sets[54]) == (33, 263, 61, 291)
    assert known_numbers(tuple(str(k) for k in range(51))) == sets[17:]
    assert sum(number is not None for number in sets) == len(IBUG_LANDMARKS)


def test_mediapipe_numbers_are_the_templates_own():
    assert known_numbers(("mediapipe_33", "MediaPipe 4", "mediapipe_10")) == [33, 4, None]
    assert len(known_numbers(tuple(str(k) for k in range(478)))) == 478


@pytest.mark.parametrize(
    "names", [("33", "263", "4", "2"), ("nose_tpi",), ("ibug_68",), ("mediapipe_468",), ("ibug_",)]
)
def test_names_of_no_set_are_refused_with_what_is_known(names):
    with pytest.raises(LandmarkFileError, match=r"ibug_36|nose_tip"):
        known_numbers(names)


def test_given_landmarks_lie_on_the_surface_and_survive_their_file(scan):
    given = check(scan, points_of(scan, NOW_LANDMARKS, (0, 0, 2.0)), limit=3.0)
    np.testing.assert_array_equal(given.index, sorted(NOW_LANDMARKS.values()))
    off_mm = np.linalg.norm(given.points - scan[1].apply(np.array([PLACES[i] for i in given.index])), axis=1) * 1000
    assert off_mm.max() < 2.0
    assert 1.0 < given.farthest_mm < 2.1
    again = GivenLandmarks.from_json(json.loads(json_text(given.to_json())))
    np.testing.assert_allclose(again.points, given.points)


def test_the_face_looks_where_the_landmarks_say(scan):
    given = check(scan, points_of(scan, NOW_LANDMARKS))
    fit = face_of_landmarks(given.index, given.points, scan[0])
    np.testing.assert_allclose(fit.T_scan_face.matrix(), scan[1].matrix(), atol=1e-6)
    assert fit.back_faces < 0.5
    turned = Mesh(scan[0].vertices, scan[0].faces[:, ::-1])
    assert face_of_landmarks(given.index, given.points, turned).back_faces > 0.5


def test_points_off_the_surface_are_named(scan):
    named = points_of(scan, NOW_LANDMARKS)
    named.points[4] += 0.012 * scan[1].rotation[:, 2]
    with pytest.raises(LandmarkFileError, match=r"nose_bottom \(\d+\.\d mm\) lie off the scan's surface; at most 5 mm"):
        check(scan, named)


def test_the_frame_of_another_unit_is_off_the_surface(scan):
    named = points_of(scan, NOW_LANDMARKS)
    with pytest.raises(LandmarkFileError, match="scan's own unit and frame"):
        check(scan, NamedPoints(named.names, named.points * 1000))


def test_positions_that_are_not_finite_are_named(scan):
    named = points_of(scan, NOW_LANDMARKS)
    named.points[0, 1] = np.nan
    with pytest.raises(LandmarkFileError, match="positions of right_eye_outer are not finite"):
        check(scan, named)


def test_too_few_landmarks_are_refused(scan):
    names = ["nose_tip", "right_eye_outer", "left_eye_outer"]
    with pytest.raises(LandmarkFileError, match="3 landmarks are too few"):
        check(scan, points_of(scan, names))


def test_landmarks_in_a_line_are_refused(scan):
    names = ["right_eye_outer", "right_eye_inner", "left_eye_inner", "left_eye_outer"]
    with pytest.raises(LandmarkFileError, match="in one line"):
        check(scan, points_of(scan, names))


def test_one_landmark_under_two_names_is_refused(scan):
    named = points_of(scan, [*NOW_LANDMARKS, "ibug_36"])
    with pytest.raises(LandmarkFileError, match="right_eye_outer, ibug_36 name the same"):
        check(scan, named)


@pytest.mark.parametrize("names", [list(NOW_LANDMARKS), ["ibug_36", "ibug_45", "ibug_48", "ibug_54"]])
def test_swapped_sides_are_noticed(scan, names):
    numbers = known_numbers(tuple(names))
    partner = {33: 263, 133: 362, 61: 291, 263: 33, 362: 133, 291: 61, 2: 2}
    named = NamedPoints(tuple(names), scan[1].apply(np.array([PLACES[partner[n]] for n in numbers])))
    with pytest.raises(LandmarkFileError, match="swap left and right"):
        check(scan, named)


def test_shuffled_names_are_noticed(scan):
    names = list(NOW_LANDMARKS)
    named = points_of(scan, names)
    with pytest.raises(LandmarkFileError, match=r"those of an average face|mirror"):
        check(scan, NamedPoints(named.names, named.points[[4, 5, 6, 0, 1, 2, 3]]))


def detected(scan, shift_mm) -> ScanLandmarks3D:
    """All of the face's landmarks as a detector that is off by the same distance everywhere would put them, in mm."""
    index = np.array(sorted(PLACES))
    points = scan[1].apply(np.array([PLACES[i] for i in index]) + shift_mm) * 1000
    n = len(index)
    return ScanLandmarks3D(
        "m", 1000.0, index, points, np.zeros(n, int), np.zeros((n, 3)), np.ones(n), np.full(n, 0.9),
        Similarity.identity(), 1.0, 0.0,
    )  # fmt: skip


def test_given_landmarks_replace_detected_ones_and_lead(scan):
    given = check(scan, points_of(scan, NOW_LANDMARKS))
    joined = with_given_landmarks(given, detected(scan, (3.0, 0, 0)), scan[0], PLACES, WEIGHT)
    np.testing.assert_array_equal(joined.index, sorted(PLACES))
    assert joined.given.sum() == 7
    np.testing.assert_array_equal(joined.weight, np.where(joined.given, GIVEN_WEIGHT, 0.9))
    np.testing.assert_allclose(joined.points_mm[joined.given], given.points * 1000)
    assert (joined.unit, joined.mm_per_scan_unit) == ("m", 1000.0)
    # Pose and size are those of the given ones, within a fraction of the detector's error.
    back = joined.T_head_metric.apply(joined.points_mm[joined.given])
    assert np.linalg.norm(back - np.array([PLACES[i] for i in given.index]), axis=1).max() < 1.0
    assert json.loads(json_text(joined.to_json()))["quality"]["n_given"] == 7


def test_detected_landmarks_that_contradict_are_dropped(scan):
    given = check(scan, points_of(scan, NOW_LANDMARKS))
    joined = with_given_landmarks(given, detected(scan, (0, 0, 60.0)), scan[0], PLACES, WEIGHT)
    np.testing.assert_array_equal(joined.index, given.index)


def test_given_landmarks_alone_are_enough(scan):
    given = check(scan, points_of(scan, NOW_LANDMARKS))
    alone = with_given_landmarks(given, None, scan[0], PLACES, WEIGHT)
    np.testing.assert_array_equal(alone.index, given.index)
    assert alone.residual_mm < 1e-6
    corners = scan[0].vertices[scan[0].faces[alone.face]]
    np.testing.assert_allclose(np.einsum("nk,nkd->nd", alone.barycentric, corners), given.points, atol=1e-9)
    arbitrary = with_given_landmarks(given, None, scan[0], PLACES, WEIGHT, has_unit=False)
    assert arbitrary.unit == "arbitrary"
    with pytest.raises(ScanUnitError, match="unit = m"):
        with_given_landmarks(given, None, scan[0], PLACES, WEIGHT, declared_mm_per_unit=1.0)


def test_a_template_that_knows_too_few_of_them_is_told(scan):
    given = check(scan, points_of(scan, NOW_LANDMARKS))
    with pytest.raises(LandmarkFileError, match="the template knows 3"):
        with_given_landmarks(given, None, scan[0], PLACES, dict.fromkeys((33, 2, 263), 1.0))


def test_without_a_file_the_facts_are_as_before(scan):
    plain = detected(scan, (0, 0, 0))
    assert "given" not in plain.to_json()
    assert "n_given" not in plain.quality
    assert "given" in dataclasses.replace(plain, given=np.zeros(len(plain.index), bool)).to_json()
