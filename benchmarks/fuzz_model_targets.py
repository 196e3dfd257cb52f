"""Readers of head models, trained models, records and of what the stages write, for the fuzzers."""

import json
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.fuzz_targets import Target


class _RunsCode:
    """What an attacker puts into a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/nphm-was-here",)


def flame() -> dict[str, Any]:
    """Give a head model of few vertices in FLAME's layout."""
    rng = np.random.default_rng(0)
    n, n_joints = 12, 5
    vertices = rng.uniform(-0.1, 0.1, (n, 3))
    return {
        "v_template": vertices,
        "shapedirs": rng.normal(size=(n, 3, 6)) * 1e-3,
        "n_id": 4,
        "weights": np.full((n, n_joints), 1 / n_joints),
        "J_regressor": np.full((n_joints, n), 1 / n),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "f": np.array([[0, 1, 2], [3, 4, 5]]),
        "posedirs": rng.normal(size=(n, 3, 36)),
    }


def _pickle_seeds() -> list[bytes]:
    from scipy import sparse

    model = flame()
    dense = [pickle.dumps(model, protocol=protocol) for protocol in (0, 2, 4)]
    model["J_regressor"] = sparse.csc_matrix(model["J_regressor"])
    return [*dense, pickle.dumps(model, protocol=2), pickle.dumps({"v_template": _RunsCode()}, protocol=2)]


def _head_model(path: Path) -> Any:
    from nphm_core.template.read import read_head_model

    return read_head_model(str(path))


def _field() -> Any:
    """Give an identity field of few weights."""
    import torch

    from nphm_core.config import IdentityModelConfig
    from nphm_core.models.identity_field import build_identity_field

    settings = IdentityModelConfig(n_global=4, n_local=2, n_hidden=20, n_hidden_anchors=8, n_layers=4)
    return build_identity_field(settings, torch.zeros(39, 3))


@cache
def _checkpoint() -> dict[str, bytes]:
    """Give the files of a trained model of few weights."""
    import torch

    from nphm_core.config import ExpressionModelConfig
    from nphm_core.models.checkpoint import write_checkpoint
    from nphm_core.models.expression_field import ExpressionField
    from nphm_core.models.neural_head import NeuralHead

    field = _field()
    more = ExpressionModelConfig(n_expression=4, n_condition=2, n_hidden=48, n_layers=3)
    head = NeuralHead(
        field,
        ExpressionField(more, field.n_code),
        identity_codes=torch.zeros(2, field.n_code),
        expression_codes=torch.zeros(3, 4),
        subjects=("a", "b"),
        scans=("a/x", "a/y", "b/x"),
    )
    with TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), head)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _write_checkpoint(folder: Path) -> None:
    for name, data in _checkpoint().items():
        (folder / name).write_bytes(data)


def _read_checkpoint(path: Path) -> Any:
    from nphm_core.models.checkpoint import from_pretrained

    return from_pretrained(path.parent)


@cache
def _released() -> bytes:
    import torch

    from nphm_core.models.neural_head import NeuralHead
    from nphm_core.models.released import write_released

    field = _field()
    head = NeuralHead(field, None, identity_codes=torch.zeros(1, field.n_code), expression_codes=None, subjects=("a",))
    with TemporaryDirectory() as folder:
        write_released(head, Path(folder) / "identity.tar")
        return (Path(folder) / "identity.tar").read_bytes()


def _read_released(path: Path) -> Any:
    import torch

    from nphm_core.models.released import read_released

    return read_released(path, None, torch.zeros(39, 3))


def _record(path: Path) -> Any:
    from nphm_core.records import read_record

    return read_record(path.parents[4], "a/b", "arap")


def _make_stages(folder: Path) -> None:
    (folder / "scans" / "a" / "b" / "stages").mkdir(parents=True, exist_ok=True)


def _training_set(path: Path) -> Any:
    from nphm_core.io.training_set import read_training_set

    return read_training_set(path)


def _read_by(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from nphm_core.io import files

        return getattr(files, name)(path)

    return read


def _safetensors() -> list[bytes]:
    from safetensors.numpy import save

    arrays = {"a": np.arange(6.0), "b": np.ones((2, 3), np.int16)}
    return [save(arrays, {"scan": '"a/b"'}), save(arrays)]


def model_targets(npy: Callable[[Any], bytes], npz: Callable[..., bytes]) -> list[Target]:
    """Give the readers; `npy` and `npz` write arrays."""
    record = {"scan": "a/b", "stage": "arap", "status": "ok", "reason": "", "metrics": {}, "key": "k"}
    record["artifacts"] = {"registered.ply": {"bytes": 3, "sha256": "0"}}
    rows = b"subject\texpression\trole\tcanonical\treason\tsdf_sha256\tdelta_sha256\tregistered_sha256\n"
    rows += b"a\tb\ttrain\tyes\t\t\t\t\n"
    return [
        Target("FLAME pickle", "flame.pkl", _pickle_seeds, _head_model),
        Target("FLAME npz", "flame.npz", lambda: [npz(**flame())], _head_model),
        Target(
            "checkpoint config",
            "config.json",
            lambda: [_checkpoint()["config.json"]],
            _read_checkpoint,
            _write_checkpoint,
        ),
        Target(
            "checkpoint weights",
            "model.safetensors",
            lambda: [_checkpoint()["model.safetensors"]],
            _read_checkpoint,
            _write_checkpoint,
        ),
        Target("released weights", "identity.tar", lambda: [_released(), pickle.dumps(_RunsCode())], _read_released),
        Target("record", "scans/a/b/stages/arap.json", lambda: [json.dumps(record).encode()], _record, _make_stages),
        Target("training set", "training_set.tsv", lambda: [rows], _training_set),
        Target("JSON", "x.json", lambda: [b'{"a": [1, 2.5, null], "b": "text"}'], _read_by("read_json")),
        Target("NPZ", "x.npz", lambda: [npz(a=np.arange(5), b=np.ones((2, 3)))], _read_by("read_npz")),
        Target("safetensors", "x.safetensors", _safetensors, _read_by("read_safetensors")),
    ]
