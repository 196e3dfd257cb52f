"""A training small enough for tests: spheres as heads, narrow networks. As a command: trains, and writes the result.

`python -m tests.training.toy STAGE FOLDER [N_STEPS]` goes on from the states in FOLDER, as a killed run does.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from nphm_core.config import (
    ExpressionModelConfig,
    IdentityModelConfig,
    OptimiserConfig,
    TrainExpressionConfig,
    TrainIdentityConfig,
)
from nphm_core.models.neural_head import NeuralHead, build_head
from nphm_core.training.journal import JsonLines
from nphm_core.training.loop import Run
from nphm_core.training.pairs import PairSamples, RegisteredPair
from nphm_core.training.samples import IdentitySamples
from nphm_core.training.train_expression import HeldOutScans, JointData, train_expression
from nphm_core.training.train_identity import train_identity
from tests.training.conftest import CPU, make_sphere, sphere_samples

MODEL = IdentityModelConfig(n_global=8, n_local=4, n_hidden=24, n_hidden_anchors=16, n_layers=4, n_nearest=4)
OPTIMISER = OptimiserConfig(learning_rate=2e-3, decay_every=25)
IDENTITY = TrainIdentityConfig(
    model=MODEL, optimiser=OPTIMISER, n_steps=40, batch_subjects=4, n_face=20, n_rest=5, n_near=20, n_far=10,
    checkpoint_every=6, log_every=5,
)  # fmt: skip
EXPRESSION = TrainExpressionConfig(
    model=ExpressionModelConfig(n_expression=6, n_condition=4, n_hidden=24, n_layers=4),
    optimiser=OPTIMISER, n_steps=40, batch_scans=4, n_pairs=30, n_space=10, checkpoint_every=6, log_every=5,
)  # fmt: skip
N_SUBJECTS = 6


def anchors(radii) -> np.ndarray:
    """Thirty-nine points on each sphere."""
    direction = np.random.default_rng(0).standard_normal((39, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(radii)[:, None, None] * direction


def spheres(n: int = N_SUBJECTS, first: int = 0, device: torch.device = CPU) -> IdentitySamples:
    """Spheres of different sizes."""
    radii = [0.3 + 0.03 * (first + i) for i in range(n)]
    made = [sphere_samples(radius, 200, first + i) for i, radius in enumerate(radii)]
    names = [f"s{first + i}" for i in range(n)]
    return IdentitySamples.from_arrays(names, made, anchors(radii), device=device)


def stretched(n: int = N_SUBJECTS, per_subject: int = 2, first: int = 0, device: torch.device = CPU) -> PairSamples:
    """Spheres stretched upwards, each subject by several factors."""
    vertices, faces = make_sphere(2, 1.0)
    pairs, names, subject = [], [], []
    for i in range(n):
        neutral = (0.3 + 0.03 * (first + i)) * vertices
        for k in range(per_subject):
            pairs.append(RegisteredPair(neutral, neutral * [1, 1 + 0.2 * k, 1], np.ones(len(vertices)), faces))
            names.append(f"s{first + i}/e{k}")
            subject.append(i)
    return PairSamples(names, np.array(subject), pairs, device=device)


def untrained_head(n_subjects: int = N_SUBJECTS) -> NeuralHead:
    """An identity field with random weights and codes."""
    generator = torch.Generator().manual_seed(7)
    mean = torch.as_tensor(anchors([0.4])[0], dtype=torch.float32)
    field = build_head(MODEL, None, mean, generator=generator).identity
    codes = 0.1 * torch.randn(n_subjects, field.n_code, generator=generator)
    return NeuralHead(field, None, identity_codes=codes, subjects=tuple(f"s{i}" for i in range(n_subjects)))


def train(stage: str, folder: Path | None, n_steps: int = 40, hooks=(), device: torch.device = CPU, **options):
    """Train a stage with held-out subjects; `joint` is half expression steps, half joint ones."""
    run = Run(folder, resume=folder is not None, hooks=hooks)
    if stage == "identity":
        settings = IDENTITY.model_copy(update={"n_steps": n_steps})
        held_out = spheres(2, N_SUBJECTS, device)
        return train_identity(spheres(device=device), settings, seed=3, validation=held_out, run=run, **options)
    n_joint = n_steps // 2 if stage == "joint" else 0
    settings = EXPRESSION.model_copy(update={"n_steps": n_steps - n_joint, "joint_steps": n_joint})
    joint = JointData(spheres(device=device), IDENTITY) if n_joint else None
    held_out = HeldOutScans(stretched(1, first=N_SUBJECTS, device=device), untrained_head().identity_codes[:1])
    return train_expression(
        untrained_head(), stretched(device=device), settings,
        seed=3, validation=held_out, joint=joint, run=run, **options,
    )  # fmt: skip


def result(trained) -> dict[str, torch.Tensor]:
    """All numbers that a training gives."""
    tensors = {name: value.detach().contiguous().cpu() for name, value in trained.head.state_dict().items()}
    return {k: v for k, v in tensors.items() if "_prior" not in k} | {"held_out": trained.held_out_codes.cpu()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    stage, folder = sys.argv[1], Path(sys.argv[2])
    n_steps = int(sys.argv[3]) if len(sys.argv) > 3 else 40
    done = train(stage, folder, n_steps, hooks=(JsonLines(folder / "train.jsonl"),))
    save_file(result(done), folder / "result.safetensors")
