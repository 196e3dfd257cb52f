"""The SLURM profile on a real SLURM: submissions, more memory after a failure, a node that dies, a cancelled run."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nphm_core.config import Config
from nphm_core.records import read_record, template_folder
from tests.workflow.one_host_slurm import Slurm, install_slurm
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


class Cluster(StandIns):
    """Stand-in stages on a SLURM; what a subject's file says is what happens to it in `landmarks`."""

    def __init__(self, repository: Path, folder: Path, slurm: Slurm, **texts: str) -> None:
        super().__init__(repository, folder)
        self.slurm = slurm
        lines = [f"{subject}\trest\tclosed\t{subject}.ply" for subject in texts]
        (folder / "scans.tsv").write_text("\n".join(["subject\texpression\tneutral\tpath", *lines]) + "\n")
        # Made before, to save a submission.
        template = Path(template_folder(str(folder / ".cache"), Config().template.model_dump(mode="json")))
        template.mkdir(parents=True)
        (template / "template.json").write_text("{}")
        for subject, text in texts.items():
            (folder / f"{subject}.ply").write_text(text)

    def start(self) -> subprocess.Popen[str]:
        # Jobs find modules as this process does: where the plugin is installed may be no part of the environment.
        paths = os.pathsep.join([str(self.folder), *sys.path])
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *_OPTIONS],
            cwd=self.folder,
            env=self.slurm.environment | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def again(self) -> str:
        return self.start().communicate(timeout=300)[0]

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
    reason = install_slurm()
    if reason:
        pytest.skip(reason)
    slurm = Slurm(tmp_path / "slurm")
    yield slurm
    slurm.stop()


def test_a_job_that_fails_is_submitted_again_with_more_memory(repository, tmp_path, slurm):
    cluster = Cluster(repository, tmp_path / "run", slurm, A="a face", B="needs memory")
    output, _ = (process := cluster.start()).communicate(timeout=600)
    assert process.returncode == 0, output[-5000:]
    assert cluster.verdicts("A", "B") == ["ok", "ok"]
    jobs = slurm.jobs()
    assert len(jobs) == 3, "one for each subject, and B's second"
    memory_mb = [int(job["MinMemoryNode"].removesuffix("M")) for job in jobs.values()]
    assert max(memory_mb) == 2 * min(memory_mb)
    assert "Nothing to be done" in cluster.again()


def test_the_job_of_a_node_that_dies_is_requeued(repository, tmp_path, slurm):
    cluster = Cluster(repository, tmp_path / "run", slurm, A="waits")
    process = cluster.start()
    cluster.wait_for("landmarks.waits", process)
    slurm.kill_node((cluster.folder / "landmarks.waits").read_text())
    (cluster.folder / "landmarks.go").touch()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-5000:]
    assert cluster.verdicts("A") == ["ok"]
    assert [int(job["Restarts"]) for job in slurm.jobs().values()] == [1], "the same job, started again by SLURM"


def test_a_cancelled_run_goes_on_where_it_was(repository, tmp_path, slurm):
    cluster = Cluster(repository, tmp_path / "run", slurm, A="waits", B="a face")
    process = cluster.start()
    cluster.wait_for("landmarks.waits", process)
    process.terminate()
    process.communicate(timeout=300)
    slurm.run("scancel", "--user=root")
    assert cluster.verdicts("A") == ["none"]
    (cluster.folder / "landmarks.go").touch()
    before = len(slurm.jobs())
    output, _ = (again := cluster.start()).communicate(timeout=600)
    assert again.returncode == 0, output[-5000:]
    assert cluster.verdicts("A", "B") == ["ok", "ok"]
    assert len(slurm.jobs()) - before <= 2
