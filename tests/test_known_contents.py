"""What is known of contents holds for one status only, and nonsense in its file is as no file."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from nphm_core import known_contents
from nphm_core.known_contents import KnownContents
from nphm_core.records import signature

TEXT = b"a surface"
SHA256 = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "scan.ply"
    path.write_bytes(TEXT)
    return path


def known(tmp_path: Path, told: list[str] | None = None) -> KnownContents:
    return KnownContents(tmp_path / "known" / "A.json", lambda: (told if told is not None else []).append("told"))


def test_the_status_by_which_a_file_was_digested_needs_no_look_at_its_content(scan, tmp_path):
    told = []
    assert known(tmp_path, told).is_as_seen(scan, signature(scan), 0, "no digest")
    assert told == []


def test_a_file_that_is_missing_is_as_seen_only_if_it_was_missing(tmp_path):
    missing = tmp_path / "none.ply"
    assert known(tmp_path).is_as_seen(missing, None, 0, "")
    assert not known(tmp_path).is_as_seen(missing, [1, 2, 3, 4], 2, SHA256)


def test_a_file_that_came_is_not_as_seen(scan, tmp_path):
    assert not known(tmp_path).is_as_seen(scan, None, None, "")


def test_another_status_is_as_seen_if_size_and_content_are_and_is_read_once(scan, tmp_path, monkeypatch):
    told = []
    contents = known(tmp_path, told)
    assert contents.is_as_seen(scan, [1, 2, 3, 4], len(TEXT), SHA256)
    assert not contents.is_as_seen(scan, [1, 2, 3, 4], len(TEXT) + 1, SHA256)
    assert told == ["told"]
    contents.keep()
    monkeypatch.setattr(known_contents, "file_digest", lambda path: pytest.fail("read again"))
    assert known(tmp_path).is_as_seen(scan, [1, 2, 3, 4], len(TEXT), SHA256)
    assert not known(tmp_path).is_as_seen(scan, [1, 2, 3, 4], len(TEXT), "0" * 64)


def test_a_change_after_the_content_was_read_is_seen_with_size_and_time_restored(scan, tmp_path):
    contents = known(tmp_path)
    assert contents.is_as_seen(scan, [], len(TEXT), SHA256)
    contents.keep()
    time.sleep(0.02)
    status = scan.stat()
    scan.write_bytes(TEXT[::-1])
    os.utime(scan, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not known(tmp_path).is_as_seen(scan, [], len(TEXT), SHA256)


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", '{"NAME": 3}', '{"NAME": [[1, 2, 3, 4], "x"]}', '{"NAME": [STATUS]}']
)
def test_nonsense_is_as_nothing(scan, tmp_path, text):
    path = tmp_path / "known" / "A.json"
    path.parent.mkdir()
    path.write_text(text.replace("NAME", str(scan)).replace("STATUS", json.dumps(signature(scan))))
    assert known(tmp_path).is_as_seen(scan, [], len(TEXT), SHA256)


def test_a_file_that_cannot_be_read_is_another(scan, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(known_contents, "file_digest", refuse)
    assert not known(tmp_path).is_as_seen(scan, [], len(TEXT), SHA256)


def test_where_nothing_is_asked_for_no_file_stays(scan, tmp_path):
    contents = known(tmp_path)
    assert contents.is_as_seen(scan, [], len(TEXT), SHA256)
    contents.keep()
    assert (tmp_path / "known" / "A.json").is_file()
    known(tmp_path).keep()
    assert not (tmp_path / "known" / "A.json").exists()
