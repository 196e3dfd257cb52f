"""The demo's scans: a table that can be read, files of three kinds, truth beside them, the same bytes again."""

import hashlib

import numpy as np
import pytest

from nphm_core.geometry.rays import RayCaster
from nphm_core.io.meshes import read_scan
from nphm_core.io.scan_table import read_scan_table
from nphm_core.registration.drawable import drawable_of
from nphm_core.registration.face_search import find_faces


@pytest.mark.slow
def test_demo_scans_of_an_open_model(shared_dir, tmp_path):
    """Uses a head model outside the repository; its template is made here."""
    from pipelines.demo_scans import main

    source = shared_dir / "heads" / "ict_flame_format_10kF_fp16.npz"
    common = ["--model", str(source), "--cache", str(tmp_path / "cache"), "--expressions", "2"]
    assert main([*common, "--out", str(tmp_path / "demo"), "--subjects", "3"]) == 0
    assert main([*common, "--out", str(tmp_path / "again"), "--subjects", "1"]) == 0
    table = read_scan_table(tmp_path / "demo" / "scans.tsv")
    assert [row.neutral for row in table.rows] == ["closed", "open"] * 3
    assert [row.unit for row in table.rows[::2]] == ["mm", "auto", "cm"]
    for row in table.rows:
        mesh = read_scan(row.path)
        assert 60_000 < mesh.n_faces < 250_000
        drawable = drawable_of(mesh)
        search = find_faces(drawable, RayCaster(drawable.vertices, drawable.faces), min_confidence=0.5)
        assert len(search.fits) == 1
        truth = np.load(tmp_path / "demo" / "truth" / row.subject / f"{row.expression}.npz")
        assert 150 < np.ptp(truth["vertices_mm"], axis=0).max() < 500
    for name in ("scans/s001/neutral.ply", "truth/s001/mouth-open.npz"):
        digests = {hashlib.sha256((tmp_path / run / name).read_bytes()).hexdigest() for run in ("demo", "again")}
        assert len(digests) == 1
