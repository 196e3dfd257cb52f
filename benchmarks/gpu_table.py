"""What the parts of the GPU benchmark share: the clock, the card's ceilings, the table."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.stage_runs import print_table


@dataclass
class Bench:
    """One run."""

    device: torch.device
    quick: bool = False
    model: Path | None = None
    copy_tb_s: float = 0.0
    tflop_s: dict[str, float] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the table: by quantity, then by column."""
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def say(self, line: str) -> None:
        """Print a line with the time, at once."""
        print(f"[{time.perf_counter() - self.started:7.1f} s] {line}", flush=True)

    def note(self, quantity: str, column: str, value: float | str) -> None:
        """Put a number into the table."""
        self.rows.setdefault(quantity, {})[column] = value
        self.say(f"{quantity}: {column}: {value if isinstance(value, str) else f'{value:.4g}'}")

    @property
    def repeats(self) -> int:
        """Timed calls of anything."""
        return 10 if self.quick else 30

    def milliseconds(self, call: Callable[[int], object], *, warm: int = 3, repeats: int | None = None) -> float:
        """Give the median time of a call on the device's clock, gaps in which the device waits included."""
        repeats = repeats or self.repeats
        for k in range(warm):
            call(k)
        torch.cuda.synchronize()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for k in range(repeats):
            call(warm + k)
            marks[k + 1].record()
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) for a, b in pairwise(marks))

    def captured_milliseconds(self, call: Callable[[], object]) -> float:
        """Give the median time of a call that has warmed up, as a graph: launched from Python it waits for these."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return self.milliseconds(lambda _: graph.replay())

    @contextmanager
    def peak_gb(self, quantity: str, column: str) -> Iterator[None]:
        """Note the most memory that was in use within."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield
        self.note(quantity, column, torch.cuda.max_memory_allocated() / 1e9)

    def measure_ceilings(self) -> None:
        """Measure what the card can do, on random numbers."""
        name, count = torch.cuda.get_device_name(), torch.cuda.device_count()
        self.say(f"{name}, {count} visible; PyTorch {torch.__version__}")
        a = torch.rand(2**28, device=self.device)
        b = torch.empty_like(a)
        self.copy_tb_s = 2 * a.numel() * 4 / self.milliseconds(lambda _: b.copy_(a)) / 1e9
        n = 8192
        a, b = (torch.randn(n, n, device=self.device) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        for label, precision, dtype in (
            ("float32", "highest", torch.float32),
            ("tf32", "high", torch.float32),
            ("float16", "high", torch.float16),
        ):
            torch.set_float32_matmul_precision(precision)
            x, y = a.to(dtype), b.to(dtype)
            self.tflop_s[label] = 2 * n**3 / self.milliseconds(lambda _, x=x, y=y: x @ y, repeats=10) / 1e9
        torch.set_float32_matmul_precision(before)
        rates = ", ".join(f"{rate:.0f} ({label})" for label, rate in self.tflop_s.items())
        self.say(f"copy {self.copy_tb_s:.2f} TB/s; matrix products {rates} TFLOP/s")
        torch.cuda.empty_cache()

    def note_share(self, quantity: str, column: str, tflop: float, milliseconds: float) -> None:
        """Note the useful arithmetic's share of the measured rate in half precision."""
        rate = tflop / milliseconds * 1000
        share = f"{rate:.0f} TFLOP/s, {100 * rate / self.tflop_s['float16']:.0f}% of the measured rate"
        self.note(quantity, column, share)

    def print_table(self, released: dict[str, tuple[float, float]]) -> None:
        """Print all numbers."""
        columns: list[str] = []
        for row in self.rows.values():
            columns += [column for column in row if column not in columns]
        head = ("", "released fp32", "released tf32", *columns)
        cells = []
        for quantity, row in self.rows.items():
            old = released.get(quantity, ("", ""))
            cells.append((quantity, *map(_cell, old), *(_cell(row.get(column, "")) for column in columns)))
        print(
            f"\n{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, copy {self.copy_tb_s:.2f} TB/s, ", end=""
        )
        print(", ".join(f"{label} {rate:.0f} TFLOP/s" for label, rate in self.tflop_s.items()) + "\n")
        print_table(head, cells)
        for line in self.notes:
            print(line)
        print(flush=True)

    def facts(self) -> dict[str, Any]:
        """Give everything for a file."""
        return {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "copy_tb_s": self.copy_tb_s,
            "tflop_s": self.tflop_s,
            "rows": self.rows,
            "notes": self.notes,
        }


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
