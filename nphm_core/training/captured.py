"""A step of training captured as a CUDA graph: launched by one call where it took hundreds.

With several processes there are two, one of the loss and its gradients, one of the optimisers; between them processes
sum. What a step draws is copied to where the graph reads it; meanwhile the next step's is drawn. The first steps of a
run are not captured: they warm up, and tell how many tiles the kernels of the ensemble need. A graph has room for a
quarter more; if a step ever needs more than nine tenths of the room, steps are captured anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from nphm_core.errors import TrainingError
from nphm_core.models.dispatch import Room
from nphm_core.training.optimisers import Codebook

N_WARM = 8
"""Steps that are not captured."""

_FULL = 0.9


@runtime_checkable
class CapturableObjective(Protocol):
    """An objective whose step can be captured."""

    codebooks: dict[str, Codebook]
    room: Room | None
    is_capturable: bool

    def rows(self, step: int) -> dict[str, Int[Tensor, " n_batch"]]:
        """Give the rows of a step."""

    def draw(self, step: int) -> Any:
        """Draw what a step needs: a dataclass of tensors."""

    def loss_of(self, drawn: Any, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the terms for what was drawn."""


@dataclass
class Parts:
    """What a step does between the graphs' inputs and the changed weights."""

    objective: CapturableObjective
    sum_gradients: Callable[[Mapping[str, Tensor]], None] | None
    """Over all processes, in place, those of the weights and those of the codes; None with a single process."""
    move_weights: Callable[[], None]


class CapturedStep:
    """One captured step; made between two steps, it changes nothing yet."""

    def __init__(self, parts: Parts, step: int) -> None:
        """Capture, with the shapes of a step's batch."""
        self._parts = parts
        objective = parts.objective
        if objective.room is not None:
            objective.room.reserve()
        self._drawn = _mapped(torch.clone, objective.draw(step))
        self._rows = {name: rows.clone() for name, rows in objective.rows(step).items()}
        # What the first steps held would stay beside what the graphs hold.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self._first, self._second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _capture(self._first):
            self._evaluate()
            if parts.sum_gradients is None:
                self._move()
        if parts.sum_gradients is not None:
            with _capture(self._second, self._first.pool()):
                self._move()
        self._side, self._has_read = torch.cuda.Stream(), torch.cuda.Event()
        self._ahead: tuple[int, list[Tensor]] = (-1, [])

    def __call__(self, step: int, code_rate: float) -> dict[str, Tensor]:
        """Do a step; the terms are overwritten by the next one."""
        objective, main = self._parts.objective, torch.cuda.current_stream()
        if self._ahead[0] != step:
            self._has_read.record(main)
            self._draw_ahead(step)
        main.wait_stream(self._side)
        _copy([*_tensors(self._drawn), *self._rows.values()], self._ahead[1])
        self._has_read.record(main)
        for name in self._slopes:
            objective.codebooks[name].advance(code_rate)
        self._first.replay()
        self._draw_ahead(step + 1)
        if self._parts.sum_gradients is not None:
            self._parts.sum_gradients(self._slopes)
            self._second.replay()
        return self._terms

    def _evaluate(self) -> None:
        """Find the loss and its gradients."""
        objective = self._parts.objective
        codes = {name: objective.codebooks[name].lookup(rows) for name, rows in self._rows.items()}
        terms = objective.loss_of(self._drawn, codes)
        terms["total"].backward()
        self._terms = {name: value.detach() for name, value in terms.items()}
        self._slopes = {name: code.grad for name, code in codes.items() if code.grad is not None}

    def _move(self) -> None:
        """Move weights and codes."""
        self._parts.move_weights()
        for name, slope in self._slopes.items():
            self._parts.objective.codebooks[name].move(self._rows[name], slope)

    def _draw_ahead(self, step: int) -> None:
        """Draw for a step beside what is under way, into memory that the step before has read by then."""
        objective = self._parts.objective
        with torch.cuda.stream(self._side):
            self._side.wait_event(self._has_read)
            self._ahead = (step, [*_tensors(objective.draw(step)), *objective.rows(step).values()])

    def is_full(self) -> bool:
        """Tell whether rows nearly lack room; TrainingError where they did. Waits for the device."""
        room = self._parts.objective.room
        if room is None or room.max_tiles is None or room.most is None:
            return False
        most = int(room.most)
        if most > room.max_tiles:
            raise TrainingError(
                f"a captured step needed {most} tiles and had room for {room.max_tiles}; expected a slow change. "
                "Start again with --resume: the last state on the disk is from before. If it happens again, set "
                "`captured` to false."
            )
        return most > _FULL * room.max_tiles


def _capture(graph: torch.cuda.CUDAGraph, pool: Any = None) -> torch.cuda.graph:
    # Other threads (those that watch messages between processes) may ask the device meanwhile.
    return torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")


def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    """Copy tensors, those of one kind of number at once: of mixed ones each would be a launch."""
    for dtype in {tensor.dtype for tensor in into}:
        chosen = [k for k, tensor in enumerate(into) if tensor.dtype == dtype]
        torch._foreach_copy_([into[k] for k in chosen], [values[k] for k in chosen])


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _mapped(function, getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changed)
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        return [tensor for field in fields(value) for tensor in _tensors(getattr(value, field.name))]
    return []
