"""A run of the workflow that can be disturbed, and a disk that can be full."""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def children_cpu_s() -> float:
    """Give the CPU seconds of all processes that were started here and have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Run:
    """The workflow in a folder of its own, started again and again by the same command."""

    def __init__(self, folder: Path, table: Path, template: Path, config: str, cores: int) -> None:
        self.folder, self.results, self.log = folder, folder / "results", folder / "snakemake.log"
        self._config = config
        settings = [f"scans={table}", "results=results", f"cache={template.parent.parent}"]
        self._command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        # As it is found where Snakemake is started in the repository.
        self._command += ["--workflow-profile", str(ROOT / "workflow/profiles/default")]
        self._command += ["--cores", str(cores), "--nocolor", "--config", *settings]
        self.n_starts, self.n_refused = 0, 0

    def prepare(self) -> None:
        """Make the folder and its config."""
        self.results.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(self._config)

    def start(self) -> subprocess.Popen:
        """Start Snakemake in a session of its own."""
        self.prepare()
        self.n_starts += 1
        with self.log.open("a") as log:
            return subprocess.Popen(
                self._command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill_worker(self, rng: random.Random) -> bool:
        """Kill one process that works on a scan; tell whether there was one."""
        found = _processes("--results\0results\0", "pipelines", folder=self.folder)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(found), signal.SIGKILL)
        return bool(found)

    def kill_snakemake(self, process: subprocess.Popen) -> bool:
        """Kill Snakemake alone: its jobs are left as orphans."""
        process.kill()
        process.wait()
        return True

    def start_second(self) -> bool:
        """Start the same command beside a running one and tell whether it was refused."""
        done = subprocess.run(self._command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        refused = done.returncode != 0 and "lock" in (done.stdout + done.stderr).lower()
        self.n_refused += refused
        return True

    def forget(self, rng: random.Random, n_scans: int) -> bool:
        """Delete all that was made of some scans."""
        scans = sorted(self.results.glob("scans/*/*"))
        for scan in rng.sample(scans, min(n_scans, len(scans))):
            shutil.rmtree(scan)
        return bool(scans)


def _processes(*words: str, folder: Path) -> list[int]:
    """List the processes in a folder whose command line holds all words."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            is_ours = all(word in line for word in words) and (entry / "cwd").resolve() == folder.resolve()
            if is_ours and not line.split("\0")[0].endswith("sh"):
                found.append(int(entry.name))
    return found


class Disk:
    """A file system in memory for a results folder, that can be filled and made read-only."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder, self._size_mb, self.is_own = folder, size_mb, False

    def __enter__(self) -> "Disk":
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size_mb}m", "none", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        self.is_own = done.returncode == 0
        if not self.is_own:
            print(f"no full or read-only disk: {done.stderr.strip()}", file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_own:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Fill the disk to its last byte."""
        filler = self.folder / "filler"
        try:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
                while stream.write(bytes(1 << 20)):
                    pass
            yield
        finally:
            filler.unlink(missing_ok=True)

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse all writes. What is open for writing delays this, so it is tried for a while."""
        done = False
        for _ in range(200):
            done = self._remount("ro")
            if done:
                break
            time.sleep(0.05)
        try:
            yield
        finally:
            if done:
                self._remount("rw")

    def _remount(self, mode: str) -> bool:
        return subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], capture_output=True).returncode == 0
