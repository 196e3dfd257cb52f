"""One JSON for each scan says by what its results were made, and survives damage and several processes."""

import json
import threading

from nphm_core.provenance import FILE, Stopwatch, note_provenance, read_provenance
from nphm_core.records import digest_of, scan_folder

SCAN = "a/b"


def note(results, stage: str, **facts) -> None:
    scan_folder(results, SCAN).mkdir(parents=True, exist_ok=True)
    note_provenance(results, SCAN, stage, 3, {"levels": 2}, Stopwatch().facts() | {"status": "ok", "seed": 7} | facts)


def test_versions_settings_seed_and_durations_are_told(tmp_path):
    note(tmp_path, "arap")
    found = read_provenance(tmp_path, SCAN)
    stage = found["stages"]["arap"]
    assert found["scan"] == SCAN
    assert {"python", "numpy", "nphm", "mediapipe"} <= found["software"].keys()
    assert found["machine"]["cores"] >= 1
    assert (stage["version"], stage["seed"], stage["settings"], stage["status"]) == (3, 7, {"levels": 2}, "ok")
    assert stage["settings_sha256"] == digest_of({"levels": 2})
    assert stage["wall_s"] >= 0
    assert stage["cpu_s"] >= 0
    assert 10 < stage["peak_mb"] < 100_000


def test_a_stage_that_runs_again_replaces_its_own_facts_only(tmp_path):
    note(tmp_path, "arap")
    note(tmp_path, "evaluate")
    note(tmp_path, "arap", status="failed")
    stages = read_provenance(tmp_path, SCAN)["stages"]
    assert {name: facts["status"] for name, facts in stages.items()} == {"arap": "failed", "evaluate": "ok"}


def test_what_another_version_made_says_so(tmp_path):
    note(tmp_path, "ingest")
    path = scan_folder(tmp_path, SCAN) / FILE
    facts = json.loads(path.read_text())
    facts["software"]["numpy"] = "0.1"
    path.write_text(json.dumps(facts))
    note(tmp_path, "arap")
    found = read_provenance(tmp_path, SCAN)
    assert found["software"]["numpy"] == "0.1"
    assert found["stages"]["arap"]["software"]["numpy"] != "0.1"
    assert "software" not in found["stages"]["ingest"]


def test_processes_at_once_lose_nothing_and_damage_is_forgotten(tmp_path):
    scan_folder(tmp_path, SCAN).mkdir(parents=True)
    (scan_folder(tmp_path, SCAN) / FILE).write_text("{")
    threads = [threading.Thread(target=note, args=(tmp_path, f"stage{k}")) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_provenance(tmp_path, SCAN)["stages"]) == {f"stage{k}" for k in range(8)}
