"""What is left to do: nothing where nothing changed, and never a stale result, whatever was changed or damaged."""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nphm_core import known_contents
from nphm_core.config import Config
from nphm_core.io.scan_table import read_scan_table, row_facts
from nphm_core.provenance import FILE as PROVENANCE
from nphm_core.records import file_digest, read_record, write_unit
from nphm_core.seals import Inspection, Wanted
from nphm_core.stages import STAGES, record_path
from pipelines import stage_command
from pipelines.stage_command import Job, run_stage, scan_row
from tests.workflow.runs import put_back
from workflow.units import Units

ROWS = {"A/rest": "closed", "A/open": "open", "A/smile": "", "B/rest": "closed", "B/smile": ""}


def process(job: Job) -> dict:
    """Write what tells of everything that the stage was given."""
    told = [job.stage.version, job.settings.model_dump(mode="json"), job.seed if job.stage.uses_seed else None]
    metrics = {}
    if job.stage.name == "ingest":
        metrics["row"] = row = scan_row(job.options, job.scan_id)
        told += [row, Path(row["path"]).read_text() if Path(row["path"]).is_file() else "missing"]
    told += [read_all(job.folder, name) for name in job.stage.needs]
    for role, names in (("identity", job.stage.needs_identity), ("canonical", job.stage.needs_canonical)):
        folder = job.related(role) if names else None
        told += [read_all(folder, name) for name in names] if folder else []
    if job.stage.uses_template:
        told.append((job.template_folder / "template.json").read_text())
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    for name in job.stage.artifacts:
        (job.out / name).write_text(f"{name} {digest}")
    return metrics


def read_all(folder: Path, stage: str) -> list[str]:
    return [(folder / name).read_text() for name in STAGES[stage].artifacts]


class World:
    """A table of scans, settings, and the results made of them."""

    def __init__(self, folder: Path, *, at_once: int = 2) -> None:
        self.folder, self.at_once, self.seed = folder, at_once, 0
        self.rows, self.units_of_rows = dict(ROWS), dict.fromkeys(ROWS, "mm")
        self.config = {name: getattr(Config(), name) for name in STAGES}
        (folder / "files").mkdir(parents=True)
        (folder / "template").mkdir()
        (folder / "template" / "template.json").write_text("{}")
        for scan in ROWS:
            self.source(scan).write_text(f"the surface of {scan}")

    def source(self, scan: str) -> Path:
        return self.folder / "files" / f"{scan.replace('/', '-')}.ply"

    def look(self, results: str = "results", **options) -> tuple[Inspection, Units]:
        lines = [
            "\t".join([*scan.split("/"), neutral, str(self.source(scan)), self.units_of_rows[scan]])
            for scan, neutral in self.rows.items()
        ]
        (self.folder / "scans.tsv").write_text("\n".join(["subject\texpression\tneutral\tpath\tunit", *lines]) + "\n")
        stage_command._read_table.cache_clear()
        table = read_scan_table(self.folder / "scans.tsv")
        rows = {row.scan_id: row_facts(table, row.scan_id, "open") for row in table.rows}
        units = Units(rows, str(self.folder / results), self.at_once)
        sections = {name: section.model_dump(mode="json") for name, section in self.config.items()}
        wanted = Wanted(sections, self.seed, file_digest(self.folder / "template" / "template.json"))
        return Inspection(str(self.folder / results), wanted, rows, units.of_many, **options), units

    def todo(self, results: str = "results") -> dict[str, frozenset[str]]:
        inspection, _ = self.look(results)
        return {scan: stages for scan in self.rows if (stages := inspection.todo(scan).stages)}

    def run(self, results: str = "results") -> dict[str, frozenset[str]]:
        """Run what is left to do, as the rules do, and give what was."""
        inspection, units = self.look(results)
        todo = {scan: stages for scan in self.rows if (stages := inspection.todo(scan).stages)}
        inspection.keep()
        options = argparse.Namespace(
            results=str(self.folder / results),
            seed=self.seed,
            template=str(self.folder / "template"),
            table=str(self.folder / "scans.tsv"),
            canonical="open",
            verdicts=None,
        )
        for name, stage in STAGES.items():
            for unit, scans in units.scans.items():
                if not any(name in todo.get(scan, ()) for scan in scans):
                    continue
                for scan in scans:
                    run_stage(stage, process, scan, self.config[name], options)
                if unit in units.several:
                    path = Path(record_path(str(self.folder / results), unit, name))
                    write_unit(path, self.folder / results, name, scans)
        inspection, _ = self.look(results)
        for scan in self.rows:
            inspection.todo(scan)
        inspection.keep()
        return todo

    def made(self, results: str = "results") -> dict[str, str]:
        """Give all artifacts and records of the table's scans."""
        root = self.folder / results / "scans"
        folders = (folder for scan in self.rows for folder in (root / scan, root / scan / "stages"))
        files = (path for folder in folders for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
        files = (path for path in files if path.name != PROVENANCE)
        return {str(path.relative_to(root)): path.read_text().rstrip() for path in files}

    def artifact(self, scan: str, stage: str) -> Path:
        return self.folder / "results" / "scans" / scan / STAGES[stage].artifacts[0]

    def record(self, scan: str, stage: str, *, hidden: bool = False) -> Path:
        name = f".{stage}.json" if hidden else f"{stage}.json"
        return self.folder / "results" / "scans" / scan / "stages" / name


def swap(path: Path) -> None:
    """Change a file's content in place, keeping its size, and restore its time stamp."""
    if path.is_file():
        status, data = path.stat(), bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        with open(path, "r+b") as file:
            file.write(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    if path.is_file():
        path.write_bytes(path.read_bytes()[:-1])


def delete(path: Path) -> None:
    path.unlink(missing_ok=True)


def touch(path: Path) -> None:
    if path.is_file():
        path.touch()


def permit(path: Path) -> None:
    """Change nothing but the permissions, and so the time of the last change of status."""
    if path.is_file():
        path.chmod(path.stat().st_mode ^ 0o020)


def link(path: Path) -> None:
    """Give a file a second name, as programs for backups do."""
    if path.is_file():
        n = len(list(path.parent.glob(".second-*")))
        os.link(path, path.with_name(f".second-{n}-{path.name}"))


def restored(world: World, scan: str = "", stage: str = "") -> None:
    """All results come back from a backup."""
    put_back(world.folder / "results")


def sources_restored(world: World, scan: str = "", stage: str = "") -> None:
    """The same of the scans as delivered."""
    put_back(world.folder / "files")


def contents_damaged(world: World, scan: str, stage: str) -> None:
    for path in (world.folder / "results" / ".contents").glob("*.json"):
        cut(path)


def contents_lie(world: World, scan: str, stage: str) -> None:
    """What is known of contents is that of other files, with other status."""
    for path in (world.folder / "results" / ".contents").glob("*.json"):
        known = json.loads(path.read_text())
        path.write_text(json.dumps(dict(zip(known, reversed(known.values()), strict=True))))


def another_setting(world: World, scan: str, stage: str) -> None:
    changed = {"evaluate": {"max_p95_mm": 2.0}, "arap": {"stiffness_end": 0.07}, "subdivide": {"levels": 1}}
    changed |= {"ingest": {"min_triangles": 600}, "sample_sdf": {"n_near": 7}, "flame_fit": {"n_iterations": 3}}
    name = stage if stage in changed else "arap"
    world.config[name] = world.config[name].model_copy(update=changed[name])


def another_neutral(world: World, scan: str, stage: str) -> None:
    world.rows["A/rest"], world.rows["A/open"] = world.rows["A/open"], world.rows["A/rest"]


def row_removed(world: World, scan: str, stage: str) -> None:
    if len(world.rows) > 1:
        world.rows.pop(scan, None)


def row_added(world: World, scan: str, stage: str) -> None:
    new = f"{scan.split('/')[0]}/x{len(world.rows)}"
    world.rows[new], world.units_of_rows[new] = "", "mm"
    world.source(new).write_text(f"the surface of {new}")


def unit_changed(world: World, scan: str, stage: str) -> None:
    world.units_of_rows[scan] = "cm"


def template_changed(world: World, scan: str, stage: str) -> None:
    swap(world.folder / "template" / "template.json")


def seed_changed(world: World, scan: str, stage: str) -> None:
    world.seed += 1


def seals_damaged(world: World, scan: str, stage: str) -> None:
    cut(world.folder / "results" / ".seals.json")


def unit_file_lost(world: World, scan: str, stage: str) -> None:
    for path in (world.folder / "results" / "scans").glob(f"*/stages/{stage}.json"):
        path.unlink()


def layout_changed(world: World, scan: str, stage: str) -> None:
    world.at_once = 1 if world.at_once > 1 else 3


def on_files(of, change):
    def damage(world: World, scan: str, stage: str) -> None:
        change(of(world, scan, stage))

    return damage


CHANGES = {
    f"{what.__name__} {name}": on_files(of, what)
    for what in (swap, cut, delete, touch, permit, link)
    for name, of in {
        "source": lambda w, scan, stage: w.source(scan),
        "artifact": lambda w, scan, stage: w.artifact(scan, stage),
        "record": lambda w, scan, stage: w.record(scan, stage),
        "hidden record": lambda w, scan, stage: w.record(scan, stage, hidden=True),
    }.items()
} | {
    change.__name__: change
    for change in (
        another_setting,
        another_neutral,
        row_removed,
        row_added,
        unit_changed,
        template_changed,
        seed_changed,
        seals_damaged,
        unit_file_lost,
        layout_changed,
        restored,
        sources_restored,
        contents_damaged,
        contents_lie,
    )
}


@pytest.fixture
def world(tmp_path) -> World:
    """Freshly made results, in a folder of their own."""
    world = World(tmp_path / "world")
    world.run()
    # Clocks of file systems tick every few milliseconds.
    time.sleep(0.02)
    return world


def test_nothing_is_left_where_nothing_changed(world):
    assert world.todo() == {}
    delete(world.folder / "results" / ".seals.json")
    assert world.todo() == {}, "neither from seals nor from records"


@pytest.mark.parametrize("name", CHANGES)
def test_after_each_change_a_run_gives_what_a_fresh_one_gives(world, name):
    CHANGES[name](world, "A/rest", "arap")
    world.run()
    assert world.todo() == {}
    world.run("fresh")
    assert world.made() == world.made("fresh")


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # each world takes a second: too slow to shrink
)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(sorted(ROWS)), st.sampled_from(list(STAGES))),
        min_size=1,
        max_size=4,
    )
)
def test_after_any_changes_a_run_gives_what_a_fresh_one_gives(tmp_path_factory, changes):
    world = World(tmp_path_factory.mktemp("world"))
    world.run()
    time.sleep(0.02)
    for name, scan, stage in changes:
        if scan in world.rows:
            CHANGES[name](world, scan, stage)
    world.run()
    assert world.todo() == {}
    world.run("fresh")
    assert world.made() == world.made("fresh")
    shutil.rmtree(world.folder)


def test_a_raised_version_runs_its_stage_and_what_follows(world, monkeypatch):
    monkeypatch.setitem(STAGES, "sample_sdf", dataclasses.replace(STAGES["sample_sdf"], version=99))
    assert world.todo() == dict.fromkeys(ROWS, frozenset({"sample_sdf", "evaluate"}))


def test_a_changed_setting_runs_its_stage_and_what_follows_in_all_scans(world):
    another_setting(world, "", "arap")
    after = {"arap", "watertight", "sample_sdf", "sample_delta", "evaluate"}
    assert world.todo() == dict.fromkeys(ROWS, frozenset(after))


def test_a_lost_artifact_of_a_neutral_runs_no_other_scan_and_a_changed_neutral_does(world):
    delete(world.artifact("A/rest", "flame_fit"))
    assert set(world.todo()) == {"A/rest"}
    swap(world.source("A/rest"))
    assert set(world.todo()) == {"A/rest", "A/open", "A/smile"}


def test_one_changed_source_runs_its_scan_only(world):
    swap(world.source("B/smile"))
    assert world.todo() == {"B/smile": frozenset(STAGES)}


@pytest.fixture
def digested(monkeypatch) -> list[str]:
    """The names of files whose contents planning has read, in their order."""
    names = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(known_contents, "file_digest", counted)
    return names


def n_files(world: World) -> int:
    return len(ROWS) * sum(len(stage.artifacts) for stage in STAGES.values())


@pytest.mark.parametrize("change", [permit, link, touch])
@pytest.mark.parametrize("kind", ["source", "artifact"])
def test_a_file_of_which_only_the_status_changed_is_current(world, digested, change, kind):
    path = world.source("A/rest") if kind == "source" else world.artifact("A/rest", "arap")
    change(path)
    assert world.todo() == {}
    assert digested == [path.name], "no other file's content is read"


def test_restored_results_are_current_and_their_contents_are_read_once(world, digested):
    restored(world)
    assert world.run() == {}
    assert len(digested) == n_files(world)
    # Another file of the same subject, and the seals gone: what was read once is known.
    permit(world.source("A/rest"))
    delete(world.folder / "results" / ".seals.json")
    digested.clear()
    assert world.run() == {}
    assert digested == [world.source("A/rest").name]
    digested.clear()
    assert world.run() == {}
    assert digested == []


def test_what_is_known_of_a_restored_file_hides_no_later_change(world):
    restored(world)
    assert world.run() == {}
    time.sleep(0.02)
    swap(world.artifact("A/rest", "arap"))
    assert "arap" in world.todo()["A/rest"]
    swap(world.source("B/smile"))
    assert world.todo()["B/smile"] == frozenset(STAGES)


def test_an_artifact_is_lost_where_its_record_does_not_say_by_which_status_it_was_known(world):
    path = world.record("A/rest", "arap", hidden=True)
    record = json.loads(path.read_text())
    record["seen"]["artifacts"] = {}
    path.write_text(json.dumps(record))
    assert world.todo() == {}, "its content is on record"
    delete(world.artifact("A/rest", "arap"))
    assert "arap" in world.todo()["A/rest"]


def test_a_changed_file_of_another_size_is_not_read(world, digested):
    cut(world.artifact("A/rest", "arap"))
    cut(world.source("B/smile"))
    assert set(world.todo()) == {"A/rest", "B/smile"}
    assert digested == []


def test_a_look_without_keeping_writes_nothing_and_says_once_that_contents_are_read(world):
    restored(world)
    told = []
    inspection, _ = world.look(tell=lambda: told.append("told"))
    assert not any(inspection.todo(scan).stages for scan in ROWS)
    assert told == ["told"]
    assert not (world.folder / "results" / ".contents").exists()


def test_what_is_known_of_contents_goes_when_it_is_needed_no_more(world):
    restored(world)
    world.run()
    known = world.folder / "results" / ".contents"
    assert {path.stem for path in known.iterdir()} == {"A", "B"}
    world.seed += 1
    for scan in ROWS:
        swap(world.source(scan))
    world.run()
    assert {path.stem for path in known.iterdir()} == set()


def test_the_tracked_record_tells_nothing_of_the_machine(world):
    record = read_record(world.folder / "results", "A/rest", "ingest")
    assert "seen" not in record
    assert "sources" in json.loads(world.record("A/rest", "ingest", hidden=True).read_text())["seen"]
