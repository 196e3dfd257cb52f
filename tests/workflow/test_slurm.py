"""The SLURM profile on a real SLURM: submissions, more memory after a failure, a node that dies, a cancelled run."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nphm_core.config import Config
from nphm_core.records import read_record, template_folder
from nphm_core.stages import STAGES, record_path
from tests.workflow.one_host_slurm import Slurm, why_not
from tests.workflow.runs import StandIns

pytestmark = pytest.mark.slow

_OPTIONS = (
    "--workflow-profile=workflow/profiles/slurm",
    "--slurm-no-account",
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=3",
    "--seconds-between-status-checks=3",
    "--latency-wait=10",
    "--nocolor",
)

_COMMAND = """
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

# The plugin asks ten seconds later each time that no job has ended: half the time of a test would be waiting.
RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 3, lambda self, seconds: None)
main()
"""


class Cluster(StandIns):
    """Stand-in stages on a SLURM; what a subject's file says is what happens to it in `landmarks`."""

    def __init__(self, repository: Path, folder: Path, slurm: Slurm, **texts: str) -> None:
        super().__init__(repository, folder)
        self.slurm, self._started = slurm, list[subprocess.Popen[str]]()
        lines = [f"{subject}\trest\tclosed\t{subject}.ply" for subject in texts]
        (folder / "scans.tsv").write_text("\n".join(["subject\texpression\tneutral\tpath", *lines]) + "\n")
        # Made before, to save a submission.
        template = Path(template_folder(str(folder / ".cache"), Config().template.model_dump(mode="json")))
        template.mkdir(parents=True)
        (template / "template.json").write_text("{}")
        for subject, text in texts.items():
            (folder / f"{subject}.ply").write_text(text)

    def start(self, *targets: str) -> subprocess.Popen[str]:
        """Start Snakemake as on a login node, for all scans or for one stage's records of some."""
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *_OPTIONS, *targets],
            cwd=self.folder,
            env=self.slurm.environment | {"PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # What is started in the background of a script ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._started.append(process)
        return process

    def run_to_its_end(self, *targets: str) -> str:
        """Run, expect that all goes well, and give what was printed."""
        return self.end_of(self.start(*targets))

    def end_of(self, process: subprocess.Popen[str]) -> str:
        """Wait until a run is done, expect that all went well, and give what was printed."""
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-5000:]
        return output

    def stop(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.kill()
            process.communicate()

    def landmarks(self, *subjects: str) -> list[Path]:
        """Give the files by which the landmarks of subjects are asked for: short of all, to save starts of jobs."""
        return [Path(record_path("results", f"{subject}/rest", "landmarks")) for subject in subjects]

    def statuses(self, *subjects: str, stage: str = "landmarks") -> list[str]:
        records = (read_record(self.folder / "results", f"{subject}/rest", stage) for subject in subjects)
        return [(record or {"status": "none"})["status"] for record in records]

    def verdicts(self, *subjects: str) -> list[str]:
        records = (read_record(self.folder / "results", f"{subject}/rest", "evaluate") for subject in subjects)
        return [(record or {"metrics": {}})["metrics"].get("verdict", "none") for record in records]

    def wait_for(self, name: str, process: subprocess.Popen[str]) -> None:
        for _ in range(1200):
            if (self.folder / name).exists():
                return
            assert process.poll() is None, process.communicate()[0][-5000:]
            time.sleep(0.2)
        raise AssertionError(f"{name} was not made")


@pytest.fixture
def slurm(tmp_path):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("the executor plugin is not installed: pip install .[slurm]")
    if reason := why_not():
        pytest.skip(reason)
    slurm = Slurm(tmp_path / "slurm")
    yield slurm
    slurm.stop()


@pytest.fixture
def cluster(repository, tmp_path, slurm):
    """Give what makes a cluster from what each subject's file says; what runs on it ends with the test."""
    made = []

    def make(**texts: str) -> Cluster:
        made.append(Cluster(repository, tmp_path / "run", slurm, **texts))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_a_job_that_fails_is_submitted_again_with_more_memory(cluster):
    run = cluster(A="a face", B="needs memory")
    run.run_to_its_end()
    assert run.verdicts("A", "B") == ["ok", "ok"]
    jobs = run.slurm.jobs()
    assert len(jobs) == 3, "one for each subject, and B's second"
    memory_mb = [int(job["MinMemoryNode"].removesuffix("M")) for job in jobs.values()]
    assert max(memory_mb) == 2 * min(memory_mb)
    assert "Nothing to be done" in run.run_to_its_end()
    assert len(run.slurm.jobs()) == 3


def test_the_job_of_a_node_that_dies_is_requeued(cluster):
    run = cluster(A="waits")
    process = run.start(*map(str, run.landmarks("A")))
    run.wait_for("landmarks.waits", process)
    node = (run.folder / "landmarks.waits").read_text()
    run.slurm.kill_node(node)
    (run.folder / "landmarks.go").touch()
    run.end_of(process)
    assert run.statuses("A") == ["ok"]
    (job,) = run.slurm.jobs().values()
    assert job["Restarts"] == "1", "the same job, started again by SLURM"
    assert job["NodeList"] != node


def test_a_cancelled_run_goes_on_where_it_was(cluster):
    run = cluster(A="waits", B="a face")
    targets = list(map(str, run.landmarks("A", "B")))
    process = run.start(*targets)
    run.wait_for("landmarks.waits", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert run.statuses("A") == ["none"]
    run.slurm.wait_for_jobs_to_end()
    states = [job["JobState"] for job in run.slurm.jobs().values()]
    assert "CANCELLED" in states
    assert set(states) <= {"CANCELLED", "COMPLETED"}
    made = run.artifact("A/rest", STAGES["render"].artifacts[0])
    before = made.stat().st_mtime_ns
    (run.folder / "landmarks.go").touch()
    run.run_to_its_end(*targets)
    assert run.statuses("A", "B") == ["ok", "ok"]
    assert len(run.slurm.jobs()) - len(states) <= 2
    assert made.stat().st_mtime_ns == before, "what was made stays made"
