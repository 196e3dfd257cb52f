"""A SLURM on this host with two virtual nodes, in folders and ports of its own, without systemd or cgroups."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurm-client", "munge")
NODES = ("n1", "n2")


def why_not() -> str:
    """Give why no SLURM can be started here, or nothing."""
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing:
        return f"SLURM is not installed ({missing[0]} is missing): apt-get install {' '.join(PACKAGES)}"
    return ""


class Slurm:
    """The running daemons; `environment` is what lets commands find them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._processes = folder, dict[str, subprocess.Popen]()
        paths = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": paths}
        try:
            self._bring_up()
        except BaseException:
            self.stop()
            raise

    def _bring_up(self) -> None:
        for name in ("state", *NODES):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        self._wrap_srun()
        self._start_munge()
        self._write_config()
        self._start("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            self._start(node, "slurmd", "-D", "-N", node)
        self._wait_for_nodes()

    def _start(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "wb") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _wrap_srun(self) -> None:
        # The plugin that starts steps in a job takes all variables of SLURM away, this one too.
        wrapper = self.folder / "bin" / "srun"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        wrapper.chmod(0o755)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        parts = {"key-file": key, "socket": self.socket, "pid-file": self.folder / "munge.pid"}
        parts |= {"log-file": self.folder / "munge.log", "seed-file": self.folder / "munge.seed"}
        options = [f"--{name}={path}" for name, path in parts.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        for _ in range(100):
            made = subprocess.run(["munge", "-n", f"--socket={self.socket}"], capture_output=True)
            if made.returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "munged.out").read_text())

    @property
    def socket(self) -> Path:
        return self.folder / "munge.socket"

    def _write_config(self) -> None:
        host, ports = socket.gethostname().split(".")[0], _free_ports(2 + len(NODES))
        cpus, total_bytes = os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory_mb = int(0.9 * total_bytes / 2**20)
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory_mb}"
            for node, port in zip(NODES, ports[2:], strict=True)
        ]
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            # A job whose node died starts again when its credential has expired: after two minutes, if nothing is said.
            f"AuthInfo=socket={self.socket},cred_expire=5",
            "SlurmUser=root",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd.%n.pid",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/linux",
            "AccountingStorageType=accounting_storage/none",
            "SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=5",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU_Memory",
            "MpiDefault=none",
            "ReturnToService=2",
            "SlurmdTimeout=10",
            "KillWait=2",
            # Without accounting a job that ended is asked for where it is still remembered.
            "MinJobAge=3600",
            "JobRequeue=1",
            *nodes,
            "PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        # slurmd loads a cgroup plugin although nothing here uses one; this one does nothing before it is used.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _wait_for_nodes(self) -> None:
        for _ in range(200):
            if set(self.run("sinfo", "-h", "-o", "%T").split()) == {"idle"}:
                return
            time.sleep(0.3)
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.out")))
        raise RuntimeError(f"the nodes do not come up\n{logs}")

    def run(self, *command: str) -> str:
        """Run one of SLURM's commands and give what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Give state, node, memory and number of starts of all jobs, by id."""
        text = self.run("scontrol", "show", "job", "-o")
        lines = (dict(part.split("=", 1) for part in line.split() if "=" in part) for line in text.splitlines())
        return {job["JobId"]: job for job in lines if "JobId" in job}

    def kill_node(self, node: str) -> None:
        """End a node as a power cut does: its daemon and the jobs on it."""
        self._processes[node].kill()
        self._kill_jobs(f"SLURMD_NODENAME={node}")

    def _kill_jobs(self, variable: str) -> None:
        """Kill all processes of jobs with a variable in their environment, those that watch over them first."""
        ours = {f"SLURM_CONF={self.folder}/slurm.conf".encode(), variable.encode()}
        jobs, watchers = set[int](), set[int]()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if ours <= set((process / "environ").read_bytes().split(b"\0")):
                    jobs.add(int(process.name))
                    # Their own title overwrites the environment of slurmstepd.
                    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                    if Path("/proc", str(parent), "comm").read_text().strip() == "slurmstepd":
                        watchers.add(parent)
        for process_id in [*watchers, *(jobs - watchers)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)

    def stop(self) -> None:
        """End everything that was started: the jobs, the daemons, and what may be left of either."""
        if "slurmctld" in self._processes:
            self.run("scancel", "--user=root")
            self.wait_for_jobs_to_end()
        for process in reversed(self._processes.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()
        for node in NODES:
            self._kill_jobs(f"SLURMD_NODENAME={node}")

    def wait_for_jobs_to_end(self) -> None:
        """Wait, for ten seconds at most, until nothing is queued or runs."""
        for _ in range(50):
            if not self.run("squeue", "-h").strip():
                return
            time.sleep(0.2)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
