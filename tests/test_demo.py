"""`make demo` as a reader runs it, and after it what README and tutorials tell to do with its results. Ten minutes.

Set-up is left out (the test runs in an environment that it made), as are a day's training and a lab's own files, whose
commands `tests/test_documents.py` rehearses.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nphm_core.io.meshes import read_mesh
from tests.test_documents import COMMANDS, REPOSITORY, clone_into

pytestmark = pytest.mark.slow
README = (REPOSITORY / "README.md").read_text()


def told(pattern: str) -> str:
    """Give the one command in the documents that a pattern finds: what runs here is what stands there."""
    (command,) = {command for command, _ in COMMANDS if re.search(pattern, command)}
    return command


class Reader:
    """Someone who types commands in a clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clone_into(folder)
        paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = os.environ | {"PYTHONPATH": str(folder), "PATH": paths, "COLUMNS": "120"}

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            ["sh", "-ec", command],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def types(self, command: str) -> str:
        """Run a command to its end, which must be a good one, and give what it prints."""
        process = self.start(command)
        output = process.communicate(timeout=1500)[0]
        assert process.returncode == 0, f"{command}\n{output[-5000:]}"
        return output


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Iterator[tuple[Reader, str]]:
    """The demo, made by the lines that make would run, and all that they printed."""
    reader = Reader(tmp_path_factory.mktemp("demo"))
    recipe = reader.types(f"make --dry-run --no-print-directory VENV={shlex.quote(sys.prefix)} demo")
    lines = [line for line in recipe.splitlines() if "setup.sh" not in line]
    yield reader, reader.types("\n".join(lines))
    # Gigabytes of samples.
    shutil.rmtree(reader.folder)


@pytest.fixture(scope="module")
def lab(demo, tmp_path_factory) -> Reader:
    """A folder with delivered scans, three each of two people, beside the demo's template."""
    there, reader = demo[0].folder, Reader(tmp_path_factory.mktemp("lab"))
    (reader.folder / ".cache").symlink_to(there / ".cache")
    for subject in ("s001", "s006"):
        shutil.copytree(there / "demo" / "scans" / subject, reader.folder / "delivered" / subject)
    return reader


def test_the_demo_ends_as_the_readme_says(demo):
    reader, output = demo
    for line in ("18 scans: 18 ok, 0 suspicious, 0 failed, 0 excluded", "table: results/summary.tsv"):
        assert line in README
        assert line in output
    last = README.split("The result lies in results/", 1)[1].split("```", 1)[0]
    assert last.strip() in output
    for name in ("report/index.html", "models/nphm/head/config.json", "fits/pretrained/neutral/fit.png"):
        assert (reader.folder / "results" / name).is_file(), name


def test_it_is_near_the_truth_as_the_readme_says(demo):
    said, found = (
        [float(x) for x in re.findall(r"(?:to scan|linear fit only|on the scan) +(\d\.\d+)", text)]
        for text in (README, demo[1])
    )
    assert found == pytest.approx(said, rel=0.3, abs=0.002)


def test_once_more_does_nothing(demo):
    assert "Nothing to be done" in demo[0].types("snakemake --cores all --configfile workflow/demo.yaml -- all model")


def test_a_stiffer_registration_would_be_made_for_all_scans(demo):
    output = demo[0].types(told("stiffness_end"))
    assert re.search(r"\barap\b.* 18\b", output), output[-3000:]
    assert not re.search(r"\bflame_fit\b +18\b", output), output[-3000:]


@pytest.mark.parametrize(
    "which", [r"^python -m pipelines.mesh --sample", r"^python -m pipelines.mesh --model.*--sample"]
)
def test_heads_are_drawn_from_both_models(demo, which):
    command = told(which)
    demo[0].types(command)
    made = list(demo[0].folder.glob("head*.ply"))
    assert len(made) == 5
    assert all(read_mesh(path).n_faces > 10_000 for path in made)
    for path in made:
        path.unlink()


def test_the_export_has_as_many_files_as_the_readme_says(demo):
    output = demo[0].types(told("--format nphm"))
    assert output.splitlines()[-1] in README


@pytest.mark.parametrize(
    "which", ["--results results --format glb", r"--format glb --out heads$", r"--format glb --out fitted.*codes"]
)
def test_scans_models_and_fits_are_exported(demo, which):
    command = told(which)
    out = demo[0].folder / shlex.split(command)[shlex.split(command).index("--out") + 1]
    shutil.rmtree(out, ignore_errors=True)
    demo[0].types(command)
    assert list(out.rglob("*.glb"))


def test_the_viewer_starts(demo):
    with demo[0].start("exec " + told(r"^python -m pipelines.view$")) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("viewer:"))
        process.terminate()
    assert line.strip() in README


def test_own_scans_go_through_and_a_verdict_leaves_one_out(lab):
    lab.types(told(r"^python -m pipelines.init FOLDER").replace("FOLDER", "delivered"))
    assert "6 scans: 6 ok" in lab.types(told(r"scans=scans.tsv results=results$"))
    (lab.folder / "verdicts.tsv").write_text("scan\tverdict\tnote\ns001/smile\trejected\tblinks\n")
    output = lab.types(told(r"verdicts=verdicts.tsv$"))
    assert "5 scans: 5 ok, 0 suspicious, 0 failed, 1 excluded" in output
    assert "pipelines.arap" not in output
