"""The scan table says what is wrong, where, and what was expected."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nphm_core.errors import ScanTableError
from nphm_core.io.scan_table import COLUMNS, read_scan_table, row_facts, scan_table_schema

ROOT = Path(__file__).parents[2]


def write_table(folder: Path, *lines: str) -> Path:
    path = folder / "scans.tsv"
    path.write_text("\n".join("\t".join(line.split("|")) for line in lines) + "\n")
    return path


def test_rows_keep_their_order_and_paths_start_at_the_table(tmp_path):
    path = write_table(
        tmp_path,
        "# a remark",
        "subject|expression|neutral|path|unit|exclude|reason",
        "ann|smile||a/smile.ply|mm||",
        "ann|rest|1|a/rest.ply|||",
        "ann|open|OPEN|/data/open.obj|cm|no|",
        "bob|rest|closed|b.ply||yes|blurred",
    )
    table = read_scan_table(path)
    assert [row.scan_id for row in table.rows] == ["ann/smile", "ann/rest", "ann/open"]
    assert table.rows[0].path == tmp_path / "a/smile.ply"
    assert table.rows[2].path == Path("/data/open.obj")
    assert [row.unit for row in table.rows] == ["mm", "auto", "cm"]
    assert [row.reason for row in table.excluded] == ["blurred"]
    assert table.identity_scan("ann").expression == "rest"
    assert table.canonical_scan("ann", "open").expression == "open"
    assert table.identity_scan("bob") is None


def test_identity_falls_back_to_the_open_neutral(tmp_path):
    table = read_scan_table(
        write_table(tmp_path, "subject|expression|neutral|path", "ann|a|open|a.ply", "ann|b|no|b.ply")
    )
    assert table.identity_scan("ann").expression == "a"
    facts = row_facts(table, "ann/b", "closed")
    assert facts["identity_scan"] == "ann/a"
    assert facts["canonical_scan"] == ""
    json.dumps(facts)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["subject|expresion|path", "a|b|c.ply"], r"column 'expresion' is unknown; did you mean expression\?"),
        (["subject|path", "a|c.ply"], "column expression is missing"),
        (["subject|expression|path", "a b|b|c.ply"], r"line 2, column subject: found 'a b', expected letters"),
        (["subject|expression|path|unit", "a|b|c.ply|inch"], "line 2, column unit: found 'inch', expected one of"),
        (["subject|expression|path|neutral", "a|b|c.ply|maybe"], "line 2, column neutral: found 'maybe'"),
        (["subject|expression|path", "a|b|"], "line 2, column path: found ''"),
        (["subject|expression|path", "a|b|c.ply|d"], "line 2 has 1 cells more than the header"),
        (["subject|expression|path", "a|b|c.ply", "a|B|d.ply"], "lines 2 and 3 are both the scan a/B"),
        (
            ["subject|expression|path|neutral", "a|b|c.ply|open", "a|c|d.ply|open"],
            "lines 2 and 3, column neutral: both are the open neutral of a",
        ),
        (["subject,expression,path", "a,b,c"], "expected tabs"),
        ([""], "empty"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, lines, message):
    path = write_table(tmp_path, *lines)
    with pytest.raises(ScanTableError, match=message) as caught:
        read_scan_table(path)
    assert str(caught.value).endswith(str(path))


def test_all_problems_are_told_at_once(tmp_path):
    path = write_table(tmp_path, "subject|expression|path", *(f"a b|e{i}|x.ply" for i in range(12)))
    with pytest.raises(ScanTableError) as caught:
        read_scan_table(path)
    assert len(re.findall("column subject", str(caught.value))) == 10
    assert "and 2 more" in str(caught.value)


def test_missing_files_are_named_all_at_once_and_only_when_asked(tmp_path):
    (tmp_path / "there.ply").touch()
    table = read_scan_table(
        write_table(
            tmp_path,
            "subject|expression|path|mask",
            "a|a|there.ply|",
            "a|b|gone.ply|",
            "a|c|there.ply|m.png",
        )
    )
    with pytest.raises(ScanTableError, match="2 files") as caught:
        table.check_files()
    assert "gone.ply" in str(caught.value)
    assert "m.png" in str(caught.value)


def test_unknown_and_excluded_scans_are_told_apart(tmp_path):
    table = read_scan_table(
        write_table(tmp_path, "subject|expression|path|exclude|reason", "ann|smile|a.ply||", "ann|b||yes|hat")
    )
    with pytest.raises(ScanTableError, match="Did you mean ann/smile"):
        table.row("ann/smiles")
    with pytest.raises(ScanTableError, match="excluded \\(hat\\)"):
        table.row("ann/b")


def test_a_folder_in_the_nphm_layout_stands_for_a_table(tmp_path):
    for name in ("017/000", "017/001", "020/010", "notes/001"):
        (tmp_path / "DATA" / name).mkdir(parents=True)
        (tmp_path / "DATA" / name / "scan.ply").touch()
    (tmp_path / "neutrals_open.json").write_text('{"17": 1, "20": -1}')
    (tmp_path / "DATA/neutrals_closed.json").write_text('{"17": 0, "20": 10}')
    table = read_scan_table(tmp_path)
    assert [(r.scan_id, r.neutral, r.unit) for r in table.rows] == [
        ("017/000", "closed", "nphm"),
        ("017/001", "open", "nphm"),
        ("020/010", "closed", "nphm"),
    ]
    with pytest.raises(ScanTableError, match="no scans in the NPHM layout"):
        read_scan_table(tmp_path / "DATA" / "notes")


def test_the_schema_file_is_the_one_of_the_code():
    stored = json.loads((ROOT / "workflow/schemas/scans.schema.json").read_text())
    assert stored == json.loads(json.dumps(scan_table_schema()))
    assert set(stored["properties"]) == set(COLUMNS)


def test_the_table_needs_the_standard_library_only():
    code = "import sys, nphm_core.io.scan_table; print([m for m in ('numpy', 'pydantic', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
