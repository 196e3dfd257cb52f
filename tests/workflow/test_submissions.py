"""How many submissions the SLURM profile makes of the whole data set, counted in the plan of the real Snakefile."""

import json
import subprocess
import sys

import pytest

from nphm_core.stages import STAGES
from tests.workflow.runs import StandIns

pytest.importorskip("snakemake_executor_plugin_slurm", reason="the plugin is not installed: pip install .[slurm]")

_N_SUBJECTS, _N_SCANS = 255, 5200

_COMMAND = """
import json
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def count(scheduler):
    dag = scheduler.workflow.dag
    local = scheduler.workflow._localrules | {rule.name for rule in scheduler.workflow.rules if rule.norun}
    jobs = [job for job in dag.needrun_jobs() if job.rule.group or job.rule.name not in local]
    groups = {id(group) for job in jobs if (group := dag.get_job_group(job))}
    alone = sorted(job.rule.name for job in jobs if dag.get_job_group(job) is None)
    print("COUNTED", json.dumps([len(jobs), len(groups), alone]))
    return True

JobScheduler.schedule = count
main()
"""


@pytest.fixture(scope="module")
def whole(repository, tmp_path_factory) -> StandIns:
    """The whole data set's table: 255 subjects, 5,200 scans; none of their files is looked into."""
    copy = StandIns(repository, tmp_path_factory.mktemp("whole"))
    lines = ["subject\texpression\tneutral\tpath"]
    for k in range(_N_SCANS):
        neutral = {0: "closed", 1: "open"}.get(k // _N_SUBJECTS, "")
        lines.append(f"S{k % _N_SUBJECTS:03d}\te{k // _N_SUBJECTS}\t{neutral}\tscan.ply")
    (copy.folder / "scans.tsv").write_text("\n".join(lines) + "\n")
    return copy


def planned(copy: StandIns, *options: str) -> tuple[int, int, list[str]]:
    """Give the number of jobs that are submitted, in how many groups, and the rules of those in none."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, "--dry-run", "--workflow-profile=workflow/profiles/slurm", *options],
        cwd=copy.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("COUNTED ")]
    assert found, (done.stdout + done.stderr)[-3000:]
    return tuple(json.loads(found[0].removeprefix("COUNTED ")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "alone"), [("all", ["template"]), ("model", ["template", "train_expression", "train_identity"])]
)
def test_the_whole_data_set_takes_at_most_260_submissions(whole, target, alone):
    n_jobs, n_groups, found = planned(whole, "--", target)
    assert found == alone
    assert n_groups == _N_SUBJECTS
    assert n_jobs - len(alone) == len(STAGES) * _N_SUBJECTS, "every stage of every subject, in its subject's group"
    assert n_groups + len(alone) <= 260
