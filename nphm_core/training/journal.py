"""What a training run tells while it runs: lines of JSON, TensorBoard's files, a line on the terminal.

Whoever wants it told elsewhere gives an object with the methods of `Hook`. Hooks are called at the log's steps only, by
the first process only.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nphm_core.io.files import write_text

log = logging.getLogger(__name__)

JOURNAL = "train.jsonl"


@dataclass(frozen=True)
class Entry:
    """Means over the steps since the last entry."""

    stage: str
    step: int
    """Steps done."""
    n_steps: int
    terms: Mapping[str, float]
    rates: Mapping[str, float]
    """Learning rates."""
    seconds: float
    """Since this process began to train."""
    seconds_a_step: float
    validation: Mapping[str, float]
    """Terms of held-out subjects; empty where there are none, or none were looked at since the last entry."""


@runtime_checkable
class Hook(Protocol):
    """Whoever is told of a run."""

    def start(self, stage: str, step: int) -> None:
        """Hear that a stage begins, or goes on, after so many steps."""

    def log(self, entry: Entry) -> None:
        """Hear of some steps."""

    def close(self) -> None:
        """Hear that the stage has ended, well or not."""


class JsonLines:
    """A line of JSON an entry; lines of a killed run that are done again are taken out."""

    def __init__(self, path: Path) -> None:
        """Nothing is written yet."""
        self._path = Path(path)

    def start(self, stage: str, step: int) -> None:
        """Keep what was told of earlier stages, and of this one up to the step."""
        kept = [line for line in _lines(self._path) if line.get("stage") != stage or line["step"] <= step]
        write_text(self._path, "".join(_line(entry) for entry in kept))

    def log(self, entry: Entry) -> None:
        """Add a line."""
        line = {
            "stage": entry.stage,
            "step": entry.step,
            "terms": dict(entry.terms),
            "rates": dict(entry.rates),
            "seconds": round(entry.seconds, 3),
            "seconds_a_step": round(entry.seconds_a_step, 6),
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(_line(line | ({"validation": dict(entry.validation)} if entry.validation else {})))

    def close(self) -> None:
        """Nothing is left open."""


class TensorBoard:
    """Event files; make it with `tensorboard_hook`."""

    def __init__(self, folder: Path, writer: Any) -> None:
        """Take the class that writes; it is made when the first step is known."""
        self._folder, self._make = folder, writer
        self._writer: Any = None

    def start(self, stage: str, step: int) -> None:
        """Hide what a killed run told of later steps."""
        self._writer = self._make(str(self._folder / stage), purge_step=step + 1)

    def log(self, entry: Entry) -> None:
        """Write scalars."""
        if self._writer is None:
            raise ValueError("the hook was not started")
        for group in ("terms", "rates", "validation"):
            for name, value in getattr(entry, group).items():
                self._writer.add_scalar(f"{group}/{name}", value, entry.step)

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.close()


def tensorboard_hook(folder: Path) -> TensorBoard | None:
    """Give a hook that writes TensorBoard's event files; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("TensorBoard is not installed: the run is told of in %s only", JOURNAL)
        return None
    return TensorBoard(folder, SummaryWriter)


class Progress:
    """The state of the run and the time left: one line that changes on a terminal, else a line in the log."""

    def __init__(self, stream: TextIOBase | None = None) -> None:
        """Write to a stream (stderr) if it is a terminal."""
        self._stream: Any = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()

    def start(self, stage: str, step: int) -> None:
        """Say where the run begins."""
        log.info("%s: %s", stage, f"going on after step {step}" if step else "starting")

    def log(self, entry: Entry) -> None:
        """Show the newest entry."""
        left = (entry.n_steps - entry.step) * entry.seconds_a_step
        loss = f"loss {entry.terms.get('total', float('nan')):.5f}"
        if "total" in entry.validation:
            loss += f", held out {entry.validation['total']:.5f}"
        rate = f"{1000 * entry.seconds_a_step:.1f} ms a step"
        text = f"{entry.stage} {entry.step}/{entry.n_steps}: {loss}, {rate}, {duration(left)} left"
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
        else:
            log.info("%s", text)

    def close(self) -> None:
        """Leave the last line where it is."""
        if self._is_terminal:
            self._stream.write("\n")


def standard_hooks(folder: Path) -> tuple[Hook, ...]:
    """Give the hooks of a command: lines of JSON and TensorBoard's files in a folder, and progress."""
    board = tensorboard_hook(folder / "tensorboard")
    return (JsonLines(folder / JOURNAL), Progress(), *([] if board is None else [board]))


def duration(seconds: float) -> str:
    """Give a time as people say it: `42 s`, `7 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class Clock:
    """Seconds since the start, and a step's since the last look."""

    def __init__(self, step: int) -> None:
        """Start after so many steps."""
        self._start = self._last = time.monotonic()
        self._step = step

    def look(self, step: int) -> tuple[float, float]:
        """Give seconds since the start, and the mean of the steps since the last look."""
        now, steps = time.monotonic(), max(step - self._step, 1)
        mean = (now - self._last) / steps
        self._last, self._step = now, step
        return now - self._start, mean


def _lines(path: Path) -> Sequence[dict[str, Any]]:
    if not path.is_file():
        return []
    out = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            out.append(json.loads(text))
        except json.JSONDecodeError:
            # The line that was being written when the run was killed.
            continue
    return out


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True, allow_nan=False) + "\n"
