"""Landmark files of all kinds give the same points; damaged and hostile ones give an error and nothing else."""

import json

import numpy as np
import pytest

from nphm_core.errors import LandmarkFileError
from nphm_core.io.landmark_file import MAX_BYTES, read_landmark_file

POINTS = {"nose_tip": [1.5, -2.0, 30.25], "left eye, outer": [4e1, 0.0, -1.0]}
PICKED = """<!DOCTYPE PickedPoints>
<PickedPoints>
 <DocumentData><DataFileName name="scan.ply"/></DocumentData>
 <point x="1.5" y="-2" z="30.25" active="1" name="nose_tip"/>
 <point active="1" y="0" x="4e1" z="-1" name="left eye, outer"/>
 <point x="0" y="0" z="0" active="0" name="not placed"/>
</PickedPoints>
"""
FILES = {
    "object.json": json.dumps(POINTS),
    "wrapped.json": json.dumps({"landmarks": POINTS}),
    "picked.pp": PICKED,
    "table.csv": '# by hand\nname,x,y,z\nnose_tip,1.5,-2,30.25\n"left eye, outer",40,0,-1\n',
    "table.tsv": "nose_tip\t1.5\t-2\t30.25\nleft eye, outer\t40\t0\t-1\n",
    "semicolons.txt": "\ufeffNAME;X;Y;Z\nnose_tip;1.5;-2;30.25\nleft eye, outer;40;0;-1\n\n",
}


def read(tmp_path, name, text):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    return read_landmark_file(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_points(tmp_path, name):
    named = read(tmp_path, name, FILES[name])
    assert named.names == tuple(POINTS)
    np.testing.assert_array_equal(named.points, list(POINTS.values()))


def test_blanks_separate_a_text_without_commas(tmp_path):
    named = read(tmp_path, "points.txt", "nose_tip 1.5  -2 30.25\n")
    assert named.names == ("nose_tip",)
    np.testing.assert_array_equal(named.points, [[1.5, -2, 30.25]])


def test_a_list_has_the_numbers_from_zero_as_names(tmp_path):
    assert read(tmp_path, "list.json", "[[1, 2, 3], [4, 5, 6]]").names == ("0", "1")


def test_positions_that_are_not_finite_are_kept_for_the_check_to_name(tmp_path):
    assert np.isnan(read(tmp_path, "nan.json", '{"a": [NaN, 0, 0]}').points[0, 0])
    assert np.isnan(read(tmp_path, "nan.csv", "a,nan,0,0").points[0, 0])


BOMB = "".join(f'<!ENTITY e{k} "&e{k - 1};&e{k - 1};">' for k in range(1, 40))
BAD = {
    "no-json.json": '{"a": ',
    "deep.json": "[" * 200_000,
    "number.json": "3",
    "short.json": '{"a": [1, 2]}',
    "text.json": '{"a": ["1", "2", "3"]}',
    "truth.json": '{"a": [true, 2, 3]}',
    "null.json": '{"a": null}',
    "large.json": '{"a": [1e400, 2, ' + "9" * 500 + "]}",
    "twice.json": '{"a": [1, 2, 3], "a": [1, 2, 3]}',
    "nameless.json": '{" ": [1, 2, 3]}',
    "empty.json": "{}",
    "latin.json": b'{"\xff": [1, 2, 3]}',
    "cells.csv": "a,1,2\n",
    "words.txt": "a one two three\n",
    "empty.csv": "# nothing\nname,x,y,z\n",
    "binary.txt": b"\x00\xff\xfe",
    "unclosed.pp": "<PickedPoints><point",
    "nameless.pp": '<PickedPoints><point x="1" y="2" z="3"/></PickedPoints>',
    "numberless.pp": '<PickedPoints><point x="1" y="2" name="a"/></PickedPoints>',
    "none.pp": "<PickedPoints/>",
    "bomb.pp": f'<!DOCTYPE p [<!ENTITY e0 "x">{BOMB}]><p><point name="&e39;" x="0" y="0" z="0"/></p>',
    "file.pp": '<!DOCTYPE p [<!ENTITY e SYSTEM "file:///etc/passwd">]><PickedPoints>&e;</PickedPoints>',
    "points.pickle": b"cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_landmark_file_is_refused_in_words(tmp_path, name):
    with pytest.raises(LandmarkFileError, match="Expected JSON with names") as caught:
        read(tmp_path, name, BAD[name])
    assert len(str(caught.value)) < 700 + len(str(tmp_path))


def test_a_file_of_any_size_is_not_read_whole(tmp_path):
    with pytest.raises(LandmarkFileError, match="larger than 4 MB"):
        read(tmp_path, "large.txt", b"a 1 2 3\n" * (MAX_BYTES // 8 + 1))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(LandmarkFileError, match="cannot be read"):
        read_landmark_file(tmp_path / "missing.pp")
