"""The guessed table names who, which expression, which neutral and which unit, and why."""

from pathlib import Path

import numpy as np
import pytest

from nphm_core.errors import ScanTableError
from nphm_core.io.scan_table import read_scan_table
from pipelines.init import write_guessed_table

PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
0 0 0
250 0 0
0 20 0
3 0 1 2
"""


def make_scans(folder: Path, *names: str, size: float = 250.0) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"v 0 0 0\nv {size} 0 0\nv 0 {size / 10} 0\nf 1 2 3\n")
    return folder


def guessed(folder: Path, tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Give neutral and unit by scan id, as the written table is read."""
    write_guessed_table(folder, tmp_path / "scans.tsv", force=True)
    return {row.scan_id: (row.neutral, row.unit) for row in read_scan_table(tmp_path / "scans.tsv").rows}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["ann/neutral_closed.obj", "ann/neutral_open.obj", "ann/smile.obj", "bob/NeutralOpen.obj", "bob/x.obj"],
            {
                "ann/neutral-closed": "closed",
                "ann/neutral-open": "open",
                "ann/smile": "",
                "bob/NeutralOpen": "open",
                "bob/x": "",
            },
        ),
        (
            ["p01_neutral.obj", "p01_smile.obj", "p02_neutral.obj", "p02_smile.obj"],
            {"p01/neutral": "closed", "p01/smile": "", "p02/neutral": "closed", "p02/smile": ""},
        ),
        (["a/e1/mesh.obj", "a/e2/mesh.obj"], {"a/e1": "", "a/e2": ""}),
        (["ann.obj", "bob smith.obj"], {"ann/scan": "closed", "bob-smith/scan": "closed"}),
        (
            ["7/models_reg/1_neutral.obj", "7/models_reg/2_smile.obj", "8/1_neutral.obj", "8/14_mouth_open.obj"],
            {"7/neutral": "closed", "7/smile": "", "8/neutral": "closed", "8/mouth-open": "open"},
        ),
        (
            ["FaMoS_1/smile/meshes/smile.000001.obj", "FaMoS_1/smile/meshes/smile.000050.obj"],
            {"FaMoS-1/smile-000001": "", "FaMoS-1/smile-000050": ""},
        ),
    ],
)
def test_names_say_subject_expression_and_neutral(tmp_path, names, expected):
    folder = make_scans(tmp_path / "scans", *names)
    found = guessed(folder, tmp_path)
    assert {scan: neutral for scan, (neutral, _) in found.items()} == expected


@pytest.mark.parametrize(("size", "unit"), [(250.0, "mm"), (25.0, "cm"), (0.25, "m"), (250e3, "um"), (4.0, "auto")])
def test_the_unit_follows_from_the_size(tmp_path, size, unit):
    folder = make_scans(tmp_path / "scans", "a/x.obj", size=size)
    assert guessed(folder, tmp_path)["a/scan"][1] == unit


def test_what_is_no_scan_is_left_out_or_excluded_with_a_reason(tmp_path):
    folder = make_scans(tmp_path / "scans", "ann/neutral.obj", "ann/template.obj", ".hidden/x.obj")
    (folder / "ann/texture.png").write_bytes(b"")
    (folder / "ann/neutral.mtl").write_text("")
    (folder / "ann/broken.ply").write_text("no")
    (folder / "ann/neutral.stl").write_text("the same scan in a poorer format")
    write_guessed_table(folder, tmp_path / "scans.tsv", force=False)
    table = read_scan_table(tmp_path / "scans.tsv")
    assert [row.scan_id for row in table.rows] == ["ann/neutral"]
    assert table.rows[0].path.suffix == ".obj"
    assert {row.scan_id: row.reason for row in table.excluded} == {
        "ann/broken": "the file cannot be read",
        "ann/template": "its name says template: probably no raw scan",
    }


def test_a_corrected_table_is_not_overwritten(tmp_path):
    folder = make_scans(tmp_path / "scans", "ann/neutral.obj", "ann/smile.obj")
    out = tmp_path / "scans.tsv"
    write_guessed_table(folder, out, force=False)
    text = out.read_text()
    assert "scans/ann/smile.obj" in text
    write_guessed_table(folder, out, force=False)
    assert out.read_text() == text
    out.write_text(text.replace("smile\t", "grin\t", 1))
    with pytest.raises(ScanTableError, match="--force"):
        write_guessed_table(folder, out, force=False)
    write_guessed_table(folder, out, force=True)
    assert out.read_text() == text


def test_clashing_names_are_numbered(tmp_path):
    folder = make_scans(tmp_path / "scans", "ann/a_b.obj", "ann/a-b.obj", "ann/c.obj")
    assert set(guessed(folder, tmp_path)) == {"ann/a-b", "ann/a-b-2", "ann/c"}


def test_the_nphm_layout_is_known(tmp_path):
    for name in ("017/000", "017/001"):
        (tmp_path / "DATA" / name).mkdir(parents=True)
        np.save(tmp_path / "DATA" / name / "s.npy", np.array(0.004))
        (tmp_path / "DATA" / name / "scan.ply").touch()
        (tmp_path / "DATA" / name / "registration.ply").touch()
    (tmp_path / "neutrals_open.json").write_text('{"17": 1}')
    assert guessed(tmp_path, tmp_path) == {"017/000": ("", "nphm"), "017/001": ("open", "nphm")}


def test_numbered_folders_alone_are_not_taken_for_nphm(tmp_path):
    folder = make_scans(tmp_path / "scans", "1/1/scan.obj", "1/2/scan.obj")
    for name in ("1/1", "1/2"):
        (folder / name / "scan.obj").rename(folder / name / "scan.ply")
        (folder / name / "scan.ply").write_text(PLY)
    assert guessed(folder, tmp_path) == {"1/1": ("", "mm"), "1/2": ("", "mm")}


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(ScanTableError, match="holds no scans"):
        write_guessed_table(tmp_path, tmp_path / "scans.tsv", force=False)
    with pytest.raises(ScanTableError, match="does not exist"):
        write_guessed_table(tmp_path / "gone", tmp_path / "scans.tsv", force=False)
