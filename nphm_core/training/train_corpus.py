"""Training of a neural head model on a corpus of synthetic people, both stages.

Surfaces are known everywhere, so nothing has to be registered. Hair moves with the skin under it. The corpus's test
subjects are held out: their codes are found with frozen weights, and their losses are those of the log's validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from nphm_core.config import TrainExpressionConfig, TrainIdentityConfig
from nphm_core.models.neural_head import NeuralHead
from nphm_core.synthetic.corpus_folder import Corpus
from nphm_core.training.journal import Entry
from nphm_core.training.loop import Run
from nphm_core.training.pairs import PairSamples, RegisteredPair
from nphm_core.training.samples import IdentitySamples
from nphm_core.training.train_expression import HeldOutScans, train_expression
from nphm_core.training.train_identity import train_identity

StageConfig = TypeVar("StageConfig", TrainIdentityConfig, TrainExpressionConfig)

_RATES = {
    TrainIdentityConfig: {"learning_rate": 1e-3, "code_learning_rate": 2e-3, "clip_norm": 0.5},
    TrainExpressionConfig: {"learning_rate": 5e-4, "code_learning_rate": 2e-3, "clip_norm": 0.1},
}
"""What a short training changes of each stage's optimiser."""


@dataclass(frozen=True)
class CorpusSettings:
    """Settings of both stages, and the seed of everything random."""

    identity: TrainIdentityConfig
    expression: TrainExpressionConfig
    seed: int = 0


def train_on_corpus(
    corpus: Corpus,
    settings: CorpusSettings,
    *,
    device: torch.device,
    run: Run,
    n_held_out: int | None = None,
) -> NeuralHead:
    """Train on a corpus's training subjects; `n_held_out` of the test subjects validate, all by default."""
    held_out = corpus.test[:n_held_out]
    first = train_identity(
        _identity_samples(corpus, corpus.train, device),
        settings.identity,
        seed=settings.seed,
        validation=_identity_samples(corpus, held_out, device) if held_out else None,
        template_hash=corpus.topology.template_hash,
        run=run,
    )
    validation = None
    if held_out:
        validation = HeldOutScans(_pairs(corpus, held_out, device), first.held_out_codes.detach())
    second = train_expression(
        first.head,
        _pairs(corpus, corpus.train, device),
        settings.expression,
        seed=settings.seed,
        validation=validation,
        run=run,
    )
    head = second.head
    head.facts |= corpus_facts(corpus, settings) | _measures(first.last, second.last)
    return head


def corpus_facts(corpus: Corpus, settings: CorpusSettings) -> dict[str, object]:
    """Give what a model card says of the data and the training."""
    n_expressions = int(corpus.facts["n_expressions"])
    sources = sorted({member.source for member in corpus.members})
    return {
        "data": f"{len(corpus.train)} synthetic subjects x {n_expressions} expressions of {' and '.join(sources)}, "
        f"variant {corpus.facts['variant']}, seed {corpus.facts['seed']}",
        "held_out": f"{len(corpus.test)} synthetic subjects",
        "identity_steps": settings.identity.n_steps,
        "expression_steps": settings.expression.n_steps,
        "seed": settings.seed,
    }


def _measures(*entries: Entry | None) -> dict[str, float]:
    """Give the last losses of both stages."""
    out: dict[str, float] = {}
    for entry in entries:
        if entry is not None:
            for group, terms in (("", entry.terms), ("held_out.", entry.validation)):
                out |= {f"{entry.stage}.{group}{name}": float(f"{value:.4g}") for name, value in terms.items()}
    return out


def _identity_samples(corpus: Corpus, names: Sequence[str], device: torch.device) -> IdentitySamples:
    anchors = np.stack([corpus.subject(name).anchors for name in names])
    return IdentitySamples.from_files(names, [corpus.samples_path(name) for name in names], anchors, device=device)


def _pairs(corpus: Corpus, names: Sequence[str], device: torch.device) -> PairSamples:
    visible = corpus.topology.visible.astype(float)
    owners: list[int] = []
    scans: list[str] = []
    pairs: list[RegisteredPair] = []
    for row, name in enumerate(names):
        subject = corpus.subject(name)
        canonical = subject.surface(subject.canonical)
        for k, expression in enumerate(subject.expressions):
            pairs.append(RegisteredPair(canonical, subject.surface(k), visible, corpus.topology.faces))
            owners.append(row)
            scans.append(f"{name}/{expression}")
    return PairSamples(scans, np.array(owners), pairs, device=device)


def shortened(settings: StageConfig, n_steps: int) -> StageConfig:
    """Give a stage's settings for fewer steps: higher rates, which fall as often as in a long training."""
    rates = _RATES[type(settings)] | {"decay_every": max(1, n_steps // 6)}
    optimiser = settings.optimiser.model_copy(update=rates)
    return settings.model_copy(update={"n_steps": n_steps, "optimiser": optimiser})
