"""A person's verdicts: read as the gallery writes them, and what they do to the scan table."""

import pytest

from nphm_core.errors import ScanTableError
from nphm_core.io.scan_table import read_scan_table, row_facts
from nphm_core.io.verdicts import read_judged_table, read_verdicts, without_rejected

TABLE = """subject\texpression\tneutral\tpath\texclude\treason
a\tclosed\tclosed\ta1.ply\t\t
a\topen\topen\ta2.ply\t\t
b\tclosed\tclosed\tb1.ply\tyes\tblurred
"""
HEADER = "scan\tverdict\tnote\tresult\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "scans.tsv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def judged(tmp_path, table):
    def read(text):
        path = tmp_path / "verdicts.tsv"
        path.write_text(text)
        return read_judged_table(table, path)

    return read


def test_a_rejected_scan_is_excluded_with_its_note(judged):
    found = judged(HEADER + "a/open\trejected\tmouth is torn\tabc\n")
    assert [row.scan_id for row in found.rows] == ["a/closed"]
    assert {row.scan_id: row.reason for row in found.excluded} == {
        "b/closed": "blurred",
        "a/open": "rejected by hand: mouth is torn",
    }


def test_accepted_scans_and_bare_notes_change_nothing(judged, table):
    found = judged(HEADER + "a/open\taccepted\t\t\na/closed\t\tlook again\t\n")
    assert found.rows == read_scan_table(table).rows


def test_without_its_rejected_neutral_a_subject_takes_the_other_one(judged, table):
    assert row_facts(read_scan_table(table), "a/open", "open")["identity_scan"] == "a/closed"
    found = judged(HEADER + "a/closed\trejected\t\t\n")
    assert row_facts(found, "a/open", "open")["identity_scan"] == "a/open"


def test_no_verdicts_are_the_table_as_it_is(table):
    assert read_judged_table(table, None) == read_scan_table(table)


def test_the_later_of_two_lines_counts(judged):
    found = judged(HEADER + "a/open\trejected\t\t\na/open\taccepted\t\t\n")
    assert len(found.rows) == 2


def test_only_scan_and_verdict_are_required(judged):
    assert len(judged("scan\tverdict\na/open\trejected\n").rows) == 1


def test_a_scan_that_is_excluded_already_keeps_its_reason(judged):
    found = judged(HEADER + "b/closed\trejected\t\t\n")
    assert [row.reason for row in found.excluded] == ["blurred"]


def test_a_note_with_quotes_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "verdicts.tsv"
    path.write_text(HEADER + 'a/open\trejected\t"a ""nose"" too many"\t\n')
    assert read_verdicts(path)[0].note == 'a "nose" too many'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scan,verdict\n", "expected scan, verdict"),
        ("", "expected scan, verdict"),
        (HEADER + "a/open\tbad\t\t\n", "accepted, rejected or nothing"),
        (HEADER + "a/opem\trejected\t\t\n", "Did you mean a/open?"),
    ],
)
def test_what_is_wrong_is_told_with_what_was_expected(judged, text, words):
    with pytest.raises(ScanTableError) as error:
        judged(text)
    assert words in str(error.value)


def test_a_missing_file_names_the_setting(tmp_path, table):
    with pytest.raises(ScanTableError, match="`verdicts` in the config"):
        read_judged_table(table, tmp_path / "none.tsv")


def test_rejecting_nothing_keeps_the_order(table):
    read = read_scan_table(table)
    assert without_rejected(read, ()) == read
