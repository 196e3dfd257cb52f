"""Run the real Snakefile in a copy of the project, and tell which jobs it started."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from nphm_core.stages import STAGES

AFTER_ARAP = ("arap", "watertight", "sample_sdf", "sample_delta", "evaluate")
AFTER_FIT = ("flame_fit", "subdivide", *AFTER_ARAP)

_TEMPLATE_COMMAND = """
import sys
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "template.json").write_text("{}")
"""


_REPORT_COMMAND = """
import sys
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "index.html").write_text("<!doctype html>")
"""


def put_back(folder: Path) -> None:
    """Replace a folder by a copy with the same time stamps (`cp -a`), as from a backup."""
    moved = folder.with_name(f"{folder.name}-moved")
    shutil.move(folder, moved)
    shutil.copytree(moved, folder)
    shutil.rmtree(moved)


def of_scan(scan: str, *stages: str) -> set[str]:
    return {f"{stage} {scan}" for stage in stages}


class Copy:
    """A copy of what a run needs, with a config of its own, so that code can be changed in it."""

    def __init__(self, repository: Path, folder: Path, *packages: str, cache: Path | None = None) -> None:
        self.folder, self._cache = folder, cache or folder / ".cache"
        for name in packages:
            # With what Numba has compiled: it looks at the sources' times, which are kept.
            shutil.copytree(repository / name, folder / name)
        shutil.copy(repository / "Snakefile", folder)
        self.set_config("")

    def set_config(self, text: str) -> None:
        self.config = text
        (self.folder / "config.yaml").write_text(f"scans: scans.tsv\ncache: {self._cache}\n{text}")

    def snakemake(self, *options: str, fails: bool = False) -> str:
        """Run Snakemake as a user would and give what it prints."""
        process = self.start(*options)
        output, _ = process.communicate()
        assert (process.returncode != 0) == fails, output[-5000:]
        return output

    def start(self, *options: str) -> subprocess.Popen:
        """Start Snakemake and let it run; its output is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--nocolor", *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def jobs(self, *options: str, fails: bool = False) -> set[str]:
        """Run, and give `stage scan` for every job that Snakemake started, less the table and the end."""
        output = self.snakemake("--printshellcmds", *options, fails=fails)
        return {f"{m[1]} {m[2]}" for m in re.finditer(r"python -m pipelines (\w+) .* ([\w-]+/[\w-]+) > ", output)}

    def artifact(self, scan: str, name: str) -> Path:
        return self.folder / "results" / "scans" / scan / name


class StandIns(Copy):
    """A copy of the workflow whose stages do next to nothing."""

    def __init__(self, repository: Path, folder: Path) -> None:
        super().__init__(repository, folder, "nphm_core", "workflow", "envs")
        commands = folder / "pipelines"
        commands.mkdir()
        shared = [repository / "pipelines" / f"{name}.py" for name in ("__init__", "__main__", "summary")]
        for path in [*shared, *(repository / "pipelines").glob("stage_*.py")]:
            shutil.copy(path, commands)
        for stage in STAGES:
            shutil.copy(repository / "tests" / "workflow" / "stand_in_stage.py", commands / f"{stage}.py")
        (commands / "template.py").write_text(_TEMPLATE_COMMAND)
        (commands / "report.py").write_text(_REPORT_COMMAND)
