"""The loop of all training stages: steps, validation, log, states to go on from.

What is trained is an `Objective`: it knows the codebooks, the rows of a step, and the loss of this process's part of
the batch. The loop knows optimisers, processes and files. A step reads nothing back from the device; the log's steps
and the states do.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nphm_core.config import OptimiserConfig
from nphm_core.errors import TrainingError
from nphm_core.records import digest_of
from nphm_core.training.captured import N_WARM, CapturableObjective, CapturedStep, Parts
from nphm_core.training.journal import Clock, Entry, Hook
from nphm_core.training.optimisers import Codebook, adamw, move_weights, rate_at, set_rate
from nphm_core.training.processes import Processes
from nphm_core.training.state import StateFolder, load_optimiser, optimiser_tensors

log = logging.getLogger(__name__)

_PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}


@runtime_checkable
class Objective(Protocol):
    """What a loop makes smaller."""

    codebooks: dict[str, Codebook]

    def rows(self, step: int) -> dict[str, Int[Tensor, " n_batch"]]:
        """Give the rows of each codebook that the whole batch of a step uses, each once."""

    def loss(self, step: int, codes: Mapping[str, Float[Tensor, "n_batch n_code"]]) -> dict[str, Tensor]:
        """Give the terms of this process's part of a step, times its share of the batch; `total` is what counts.

        `codes` are those of `rows`, for the whole batch.
        """


@dataclass(frozen=True)
class Plan:
    """How long a stage trains, and what it writes."""

    stage: str
    n_steps: int
    log_every: int
    checkpoint_every: int
    optimiser: OptimiserConfig
    precision: str
    first_step: int = 0
    """Steps of the schedule that came before the stage."""
    validate_every: int = 1
    """Steps of training for one of the held-out codes."""
    captured: bool = True
    """On a GPU, do steps as CUDA graphs where the objective allows it."""


@dataclass(frozen=True)
class Run:
    """Where a run keeps its states and whom it tells; by default nowhere and nobody."""

    states: Path | None = None
    resume: bool = False
    """Go on from the newest state, where there is one."""
    discard_others: bool = False
    """Where the newest state is that of another run, start anew instead of raising TrainingError."""
    data_key: str = ""
    """Names the data, so that a state of other data counts as that of another run."""
    hooks: Sequence[Hook] = ()


@dataclass
class Trainer:
    """One stage of training."""

    plan: Plan
    weights: nn.Module
    """Its parameters are trained, those without `requires_grad` excepted."""
    objective: Objective
    validation: Objective | None = None
    """Held-out subjects, whose codes are trained with frozen weights."""
    processes: Processes = field(default_factory=Processes.current)

    def __post_init__(self) -> None:
        """Make the optimiser of the weights."""
        self._parameters = [p for p in self.weights.parameters() if p.requires_grad]
        self._adamw = adamw(self._parameters, self.plan.optimiser)
        self._entry: Entry | None = None
        self._captured: CapturedStep | None = None
        self._is_captured: bool | None = None
        self._n_warm = 0

    def run(self, run: Run, *, key: str) -> Entry | None:
        """Train, and give the last entry of the log; `key` names all that the result depends on but its length."""
        key = digest_of([key, run.data_key])
        folder = None if run.states is None else StateFolder(run.states / self.plan.stage, key)
        step = self._begin(folder, run)
        hooks = run.hooks if self.processes.is_first else ()
        for hook in hooks:
            hook.start(self.plan.stage, step)
        try:
            with matrix_precision(self.plan.precision):
                self._steps(step, folder, hooks)
        finally:
            self._forget_captured()
            for hook in hooks:
                hook.close()
        return self._entry

    def _begin(self, folder: StateFolder | None, run: Run) -> int:
        """Give the step to go on from."""
        state = None
        if folder is not None and run.resume:
            state = folder.newest(discard_others=run.discard_others)
        step = 0 if state is None else state.step
        self.processes.wait()
        if folder is not None and self.processes.is_first:
            folder.clear(after=-1 if state is None else step)
        if state is not None:
            self._load(state.tensors)
        return step

    def _steps(self, step: int, folder: StateFolder | None, hooks: Sequence[Hook]) -> None:
        clock, sums, held_out = Clock(step), _Sums(), _Sums()
        while step < self.plan.n_steps:
            sums.add(self.step(step))
            if self.validation is not None and step % self.plan.validate_every == 0:
                held_out.add(self.validation_step(step // self.plan.validate_every))
            step += 1
            at_end = step == self.plan.n_steps
            if at_end or step % self.plan.log_every == 0:
                self._entry = self._summary(step, clock, sums, held_out)
                if self._captured is not None and self._captured.is_full():
                    self._forget_captured()
                for hook in hooks:
                    hook.log(self._entry)
            if folder is not None and (at_end or step % self.plan.checkpoint_every == 0):
                self._save(folder, step)

    def step(self, step: int) -> dict[str, Tensor]:
        """Change weights and codes once, and give the terms of this process's part."""
        set_rate(self._adamw, self._rate("learning_rate", step))
        if self._captures() and self._n_warm >= N_WARM:
            if self._captured is None:
                assert isinstance(self.objective, CapturableObjective)
                sums = self._sum_gradients if self.processes.count > 1 else None
                parts = Parts(self.objective, sums, self._move_weights)
                self._captured = CapturedStep(parts, step)
            return self._captured(step, self._rate("code_learning_rate", step))
        self._n_warm += 1
        terms, rows, codes = self._evaluate(self.objective, step)
        terms["total"].backward()
        self._sum_gradients({name: code.grad for name, code in codes.items()})
        self._move_weights()
        self._adamw.zero_grad(set_to_none=True)
        self._update(self.objective, rows, codes, step)
        return terms

    def _captures(self) -> bool:
        if self._is_captured is None:
            wanted = self.plan.captured and all(parameter.is_cuda for parameter in self._parameters)
            self._is_captured = wanted and getattr(self.objective, "is_capturable", False)
        return self._is_captured

    def _forget_captured(self) -> None:
        """Give back what captured steps hold; the next ones are not captured."""
        if self._captured is None:
            return
        self._captured, self._n_warm = None, 0
        self._adamw.zero_grad(set_to_none=True)
        room = getattr(self.objective, "room", None)
        if room is not None:
            room.release()

    def _sum_gradients(self, slopes: Mapping[str, Tensor]) -> None:
        self.processes.sum_([*(p.grad for p in self._parameters if p.grad is not None), *slopes.values()])

    def _move_weights(self) -> None:
        move_weights(self._adamw, self.plan.optimiser.clip_norm)

    def validation_step(self, step: int) -> dict[str, Tensor]:
        """Change the codes of held-out subjects once; the weights stay as they are."""
        if self.validation is None:
            raise ValueError("there are no held-out subjects")
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        terms, rows, codes = self._evaluate(self.validation, step)
        terms["total"].backward()
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        self.processes.sum_([code.grad for code in codes.values()])
        self._update(self.validation, rows, codes, step * self.plan.validate_every)
        return terms

    def _evaluate(
        self, objective: Objective, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        rows = objective.rows(step)
        codes = {name: objective.codebooks[name].lookup(chosen) for name, chosen in rows.items()}
        return objective.loss(step, codes), rows, codes

    def _update(self, objective: Objective, rows: Mapping[str, Tensor], codes: Mapping[str, Tensor], step: int) -> None:
        for name, code in codes.items():
            if code.grad is None:
                raise ValueError(f"the loss does not depend on the codes {name}")
            objective.codebooks[name].update(rows[name], code.grad, self._rate("code_learning_rate", step))

    def _rate(self, name: str, step: int) -> float:
        return rate_at(getattr(self.plan.optimiser, name), self.plan.first_step + step, self.plan.optimiser)

    def _summary(self, step: int, clock: Clock, sums: "_Sums", held_out: "_Sums") -> Entry:
        terms, validation = sums.means(self.processes), held_out.means(self.processes)
        # After the means: reading them waits for the device.
        seconds, each = clock.look(step)
        if not all(map(math.isfinite, terms.values())):
            raise TrainingError(
                f"the loss is no finite number any more, before step {step} of {self.plan.stage}; expected it to fall. "
                "Lower optimiser.learning_rate or optimiser.clip_norm and start again with --resume: the last state "
                f"on the disk is from before. Terms: {terms}"
            )
        rates = {name: self._rate(name, step - 1) for name in ("learning_rate", "code_learning_rate")}
        return Entry(self.plan.stage, step, self.plan.n_steps, terms, rates, seconds, each, validation)

    def _save(self, folder: StateFolder, step: int) -> None:
        if self.processes.is_first:
            tensors = self._tensors()
            if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
                raise TrainingError(
                    f"a weight or code is no finite number any more at step {step}; expected all to stay so. Lower "
                    "optimiser.learning_rate and start again with --resume: the last state on the disk is from before."
                )
            folder.write(step, tensors)
        self.processes.wait()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"weights.{name}": value for name, value in self.weights.state_dict().items()}
        tensors |= optimiser_tensors(self._adamw, "adamw")
        for prefix, codebook in self._codebooks():
            tensors |= {f"{prefix}.{name}": value for name, value in codebook.state().items()}
        return tensors

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.weights.load_state_dict(_below("weights", tensors))
        load_optimiser(self._adamw, "adamw", tensors)
        for prefix, codebook in self._codebooks():
            codebook.load(_below(prefix, tensors))

    def _codebooks(self) -> Iterator[tuple[str, Codebook]]:
        for prefix, objective in (("codes", self.objective), ("held_out", self.validation)):
            for name, codebook in objective.codebooks.items() if objective is not None else ():
                yield f"{prefix}.{name}", codebook


class _Sums:
    """Sums of terms on the device."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        values = torch.stack([value.detach() for value in terms.values()])
        self._sum = values if self._sum is None else self._sum + values
        self._names, self._count = tuple(terms), self._count + 1

    def means(self, processes: Processes) -> dict[str, float]:
        """Give the means over all processes since the last call; nothing if there was nothing."""
        if self._sum is None:
            return {}
        processes.sum_([self._sum])
        values = (self._sum / self._count).tolist()
        self._sum, self._count = None, 0
        return dict(zip(self._names, values, strict=True))


@contextlib.contextmanager
def matrix_precision(name: str) -> Iterator[None]:
    """Set the precision of matrix products of float32; the gradients that the losses compare are products as well."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_PRECISIONS[name])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): v for name, v in tensors.items() if name.startswith(f"{prefix}.")}
