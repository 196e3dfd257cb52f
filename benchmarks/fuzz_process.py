"""One reader under one fuzzer, in this process: see `benchmarks.fuzz`."""

import contextlib
import importlib
import json
import os
import random
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ENGINES = ("coverage", "mutation")
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "shutil.rmtree")


class Guard:
    """Calls a reader, with an eye on what it does and how long that takes."""

    def __init__(self, target: Any, folder: Path, limit_s: float) -> None:
        self._target, self._limit_s, self._is_reading = target, limit_s, False
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        target.prepare(self.work)
        self._path = self.work / target.file
        self.inputs, self.good, self.findings, self._forbidden = 0, 0, {}, ""
        sys.addaudithook(self._hook)

    def __call__(self, data: bytes) -> None:
        """Read one input; findings are kept with the input that gave them first."""
        from nphm_core.errors import NphmError

        self._path.write_bytes(data)
        self.inputs += 1
        self._forbidden, started = "", time.process_time()
        self._is_reading = True
        try:
            self._target.read(self._path)
            self.good += 1
        except NphmError:
            pass
        except Exception as error:
            self._is_reading = False
            self._find(_where(error), data)
        finally:
            self._is_reading = False
        spent_s = time.process_time() - started
        if spent_s > self._limit_s:
            self._find(f"slow: {spent_s:.0f} s", data)
        if self._forbidden:
            self._find(self._forbidden, data)

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self._is_reading:
            return
        if event.startswith(_FORBIDDEN):
            self._forbidden = f"forbidden: {event}"
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            self._forbidden = f"forbidden: writes {Path(str(arguments[0])).suffix}"

    def _find(self, what: str, data: bytes) -> None:
        if what not in self.findings:
            name = f"finding-{len(self.findings)}"
            (self.folder / name).write_bytes(data)
            self.findings[what] = name
            self.write()

    def write(self) -> None:
        """Write down how far it is."""
        state = {"inputs": self.inputs, "good": self.good, "findings": self.findings}
        (self.folder / "state.json").write_text(json.dumps(state, indent=1))


def _where(error: Exception) -> str:
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "nphm_core" in f.filename or "pipelines" in f.filename
    ]
    last = frames[-1] if frames else None
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}" if last else type(error).__name__


def main() -> None:
    """Run: NAME ENGINE SECONDS FOLDER SEED."""
    name, engine, seconds, folder, seed = (
        sys.argv[1],
        sys.argv[2],
        float(sys.argv[3]),
        Path(sys.argv[4]),
        int(sys.argv[5]),
    )
    if engine == "coverage":
        atheris = importlib.import_module("atheris")
        with atheris.instrument_imports(include=["nphm_core", "pipelines"]):
            target = _warm(name)
    else:
        target = _warm(name)
    from benchmarks.fuzz_targets import LIMIT_MB, LIMIT_S

    guard = Guard(target, folder, LIMIT_S)
    seeds = target.seeds()
    for data in seeds:
        guard(data)
    limit = _used_bytes() + (LIMIT_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if engine == "mutation":
        rng, until = random.Random(seed), time.monotonic() + seconds
        from benchmarks.fuzz_targets import mutated

        while time.monotonic() < until:
            guard(mutated(seeds, rng))
        guard.write()
        return
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(data)

    def one(data: bytes) -> None:
        guard(data)
        if guard.inputs % 100 == 0:
            guard.write()

    arguments = [sys.argv[0], f"-max_total_time={int(seconds)}", f"-timeout={int(3 * LIMIT_S)}", "-rss_limit_mb=0"]
    atheris.Setup([*arguments, f"-artifact_prefix={folder}/", f"-seed={seed + 1}", "-max_len=20000", str(corpus)], one)
    with contextlib.suppress(SystemExit):
        atheris.Fuzz()
    guard.write()


def _warm(name: str) -> Any:
    """Give the reader, with all that it imports."""
    from benchmarks.fuzz_targets import all_targets

    target = next(target for target in all_targets() if target.name == name)
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder, contextlib.suppress(Exception):
        target.prepare(Path(folder))
        path = Path(folder) / target.file
        for data in target.seeds():
            path.write_bytes(data)
            target.read(path)
    return target


def _used_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
