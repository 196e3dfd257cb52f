"""Weights as the authors of NPHM released them: import, and export back.

An identity and an expression file, each a `torch.save` of dictionaries, read with `weights_only`, so that no code in a
file is executed. The released networks blend with another normaliser and evaluate all members; an
imported model is set up to do the same, and may be set to the faster blend by its settings.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.config import ExpressionModelConfig, IdentityModelConfig
from nphm_core.errors import CheckpointError
from nphm_core.io.files import atomic_write
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import EnsembleField
from nphm_core.models.networks import StackedNetworks
from nphm_core.models.neural_head import NeuralHead

_ENSEMBLE = "ensembled_deep_sdf"
_ANCHORS = "mlp_pos"
_DEFORMATION = "defDeepSDF"
_COMPRESSOR = "compressor.0"

_Weights = dict[str, Tensor]


def read_released(identity: Path, expression: Path | None, mean_anchors: Float[Tensor, "39 3"]) -> NeuralHead:
    """Read released files; CheckpointError where one is damaged, holds code, or has other networks."""
    stored = _load(identity)
    weights, codes = _part(stored, "decoder_state_dict", identity), _codes(stored, identity)
    try:
        field = _identity_field(weights, codes.shape[1], mean_anchors)
        deformation, expression_codes = None, None
        if expression is not None:
            stored = _load(expression)
            expression_codes = _codes(stored, expression)
            parts = _part(stored, "decoder_state_dict", expression)
            deformation = _expression_field(parts, field.n_code, expression_codes.shape[1])
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise _unusable(identity if expression is None else expression, str(error)) from None
    return NeuralHead(
        field,
        deformation,
        identity_codes=codes,
        expression_codes=expression_codes,
        subjects=tuple(f"released-{k}" for k in range(len(codes))),
        scans=tuple(f"released-{k}" for k in range(0 if expression_codes is None else len(expression_codes))),
        facts={"source": "released checkpoints", "epoch": int(stored.get("epoch", -1))},
    )


def write_released(head: NeuralHead, identity: Path, expression: Path | None = None) -> None:
    """Write files in the released layout, for people's tools that read it; only NPHM's own architecture fits."""
    field = head.identity
    if not isinstance(field, EnsembleField) or not field.settings.share_mirrored or field.n_ambient:
        raise ValueError("only ensembles with shared mirrored weights and no ambient coordinates have this layout")
    weights = _layer_tensors(field.networks, _ENSEMBLE, stacked=True)
    for name, value in field.anchor_network.state_dict().items():
        weights[f"{_ANCHORS}.{name}"] = value
    codes = {"weight": head.identity_codes}
    _save(identity, {"decoder_state_dict": weights, "latent_codes_state_dict": codes,
                     "latent_codes_val_state_dict": {"weight": head.identity_codes[:0]}})  # fmt: skip
    if expression is None:
        return
    if head.expression is None or head.is_backward:
        raise ValueError("only a forward expression field has the released layout")
    weights = _layer_tensors(head.expression.networks, _DEFORMATION, stacked=False)
    for name, value in head.expression.compressor.state_dict().items():
        weights[f"{_COMPRESSOR}.{name}"] = value
    codes = {"weight": head.expression_codes}
    _save(expression, {"decoder_state_dict": weights, "latent_codes_state_dict": codes})


def _identity_field(weights: _Weights, n_code: int, mean_anchors: Tensor) -> EnsembleField:
    n_layers = _count_layers(weights, _ENSEMBLE)
    n_hidden, n_in = weights[f"{_ENSEMBLE}.lin0.weight"].shape[1:]
    n_global = weights[f"{_ANCHORS}.0.weight"].shape[1]
    settings = IdentityModelConfig(
        n_global=n_global,
        n_local=n_in - 3 - n_global,
        n_hidden=n_hidden,
        n_hidden_anchors=weights[f"{_ANCHORS}.0.weight"].shape[0],
        n_layers=n_layers,
        blend="released",
        n_nearest=0,
        min_weight=0,
    )
    field = EnsembleField(settings, mean_anchors)
    if field.n_code != n_code:
        raise ValueError(f"codes have {n_code} numbers, the networks want {field.n_code}")
    _fill(field.networks, weights, _ENSEMBLE)
    field.anchor_network.load_state_dict(_below(weights, _ANCHORS))
    return field


def _expression_field(weights: _Weights, n_identity: int, n_code: int) -> ExpressionField:
    n_hidden = weights[f"{_DEFORMATION}.lin0.weight"].shape[0]
    n_condition = weights[f"{_COMPRESSOR}.weight"].shape[0]
    settings = ExpressionModelConfig(
        n_expression=n_code,
        n_condition=n_condition,
        n_hidden=n_hidden,
        n_layers=_count_layers(weights, _DEFORMATION),
    )
    field = ExpressionField(settings, n_identity)
    _fill(field.networks, weights, _DEFORMATION)
    field.compressor.load_state_dict(_below(weights, _COMPRESSOR))
    return field


def _fill(networks: StackedNetworks, weights: _Weights, name: str) -> None:
    with torch.no_grad():
        for layer in range(networks.n_layers):
            for kind, target in (("weight", networks.weights[layer]), ("bias", networks.biases[layer])):
                value = weights[f"{name}.lin{layer}.{kind}"]
                value = value if value.dim() == target.dim() else value[None]
                if value.shape != target.shape:
                    raise ValueError(
                        f"{name}.lin{layer}.{kind} has shape {tuple(value.shape)}, not {tuple(target.shape)}"
                    )
                target.copy_(value)


def _layer_tensors(networks: StackedNetworks, name: str, *, stacked: bool) -> _Weights:
    out = {}
    for layer in range(networks.n_layers):
        for kind, value in (("weight", networks.weights[layer]), ("bias", networks.biases[layer])):
            out[f"{name}.lin{layer}.{kind}"] = value.detach() if stacked else value.detach()[0]
    return out


def _count_layers(weights: _Weights, name: str) -> int:
    return sum(key.startswith(f"{name}.lin") and key.endswith(".weight") for key in weights)


def _below(weights: _Weights, name: str) -> _Weights:
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def _load(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # Of pickle protocols that PyTorch does not write itself; whatever it cannot read is refused below.
            warnings.simplefilter("ignore")
            # From memory: a damaged text that claims 4 GB would be allocated before the file is found to be shorter.
            stored = torch.load(BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _unusable(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    if not isinstance(stored, dict):
        raise _unusable(path, f"it holds a {type(stored).__name__}")
    return stored


def _part(stored: dict[str, Any], name: str, path: Path) -> _Weights:
    part = stored.get(name)
    if not isinstance(part, dict) or not all(isinstance(value, Tensor) for value in part.values()):
        raise _unusable(path, f"it has no {name}")
    return {key: value.float() for key, value in part.items()}


def _codes(stored: dict[str, Any], path: Path) -> Float[Tensor, "n n_code"]:
    codes = _part(stored, "latent_codes_state_dict", path).get("weight")
    if codes is None or codes.dim() != 2:
        raise _unusable(path, "it has no table of codes")
    return codes


def _save(path: Path, stored: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        torch.save({"epoch": 0} | stored, temporary)


def _unusable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the released checkpoint cannot be used: {reason}; expected the layout of NPHM's published weights, without "
        f"code in it. Download it again from its authors. File {path}"
    )
