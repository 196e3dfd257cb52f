"""Checkpoints of head models: a folder with safetensors, the settings as JSON, and a model card.

`model.safetensors` holds weights and codes, `config.json` the kind, the architecture, the names of subjects and scans,
the template's hash and the facts of the training, `README.md` says the same for people. Nothing here unpickles.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nphm_core.config import ExpressionModelConfig, IdentityModelConfig, read_section
from nphm_core.errors import CheckpointError, ConfigError
from nphm_core.io.files import DamagedFileError, read_json, read_safetensors, write_json, write_safetensors, write_text
from nphm_core.models.expression_field import ExpressionField
from nphm_core.models.identity_field import N_ANCHORS, build_identity_field
from nphm_core.models.neural_head import NeuralHead
from nphm_core.models.priors import Shrinkage
from nphm_core.spaces import MM_PER_CANONICAL_UNIT

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
KINDS = {"ensemble": "nphm", "global": "npm"}
"""What a checkpoint with this kind of identity field is called."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The settings that a model's weights have their shapes from."""

    identity: IdentityModelConfig
    expression: ExpressionModelConfig | None


def architecture_of(head: NeuralHead) -> Architecture:
    """Give the settings that a model was built with."""
    return Architecture(
        head.identity.settings,
        None if head.expression is None else head.expression.settings,
    )


_ERRORS = (
    DamagedFileError,
    ConfigError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
)
"""What files that do not fit together raise."""


def write_checkpoint(
    folder: Path, head: NeuralHead, facts: dict[str, Any] | None = None, *, half: bool = False
) -> None:
    """Write a model's folder; `config.json` comes last and says that it is complete.

    `facts` (metrics, seed, training settings, licence of the data) are kept with those that the model has. `half`
    stores float16, which is read back as float32: half the size, for models that are passed on.
    """
    built = architecture_of(head)
    tensors = {name: value.detach().cpu().numpy() for name, value in head.state_dict().items() if _is_kept(name)}
    if half:
        tensors = {name: v.astype(np.float16) if v.dtype == np.float32 else v for name, v in tensors.items()}
    merged = head.facts | (facts or {})
    config = {
        "format": FORMAT_VERSION,
        "kind": KINDS[built.identity.kind],
        "identity": built.identity.model_dump(mode="json"),
        "expression": None if built.expression is None else built.expression.model_dump(mode="json"),
        "n_ambient": head.identity.n_ambient,
        "subjects": list(head.subjects),
        "scans": list(head.scans),
        "template_hash": head.template_hash,
        "mm_per_unit": MM_PER_CANONICAL_UNIT,
        "shrinkage": [dataclasses.asdict(s) for s in head.shrinkage],
        "facts": merged,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, tensors, {"kind": config["kind"], "format": FORMAT_VERSION})
    write_text(folder / CARD, model_card(config, sum(v.size for v in tensors.values())))
    write_json(folder / CONFIG, config)


def from_pretrained(folder: Path, *, template_hash: str | None = None, device: str = "cpu") -> Any:
    """Read a model's folder: a NeuralHead, or a LinearHead where the folder holds the linear baseline.

    Raises CheckpointError where it is damaged, of an unknown kind, or (with `template_hash`) of another template.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if config["kind"] == "pca":
        from nphm_core.models.linear_head import read_linear_head

        return read_linear_head(folder, template_hash=template_hash)
    check_template(str(config.get("template_hash", "")), template_hash, folder)
    try:
        tensors, _ = read_safetensors(folder / WEIGHTS)
        head = _assembled(config, {name: _single(torch.from_numpy(value)) for name, value in tensors.items()})
    except _ERRORS as error:
        raise _damaged(folder, str(error)) from None
    return head.to(device)


def check_template(found: str, wanted: str | None, folder: Path) -> None:
    """Raise CheckpointError where a model was trained with another template than the one in use."""
    if wanted and found and found != wanted:
        raise CheckpointError(
            f"the model was trained with the template {found[:8]}; the one in use is {wanted[:8]}, and their vertices "
            "do not correspond. Use the model's own template (template.source), or train a model with this one. "
            f"Model {folder}"
        )


def model_card(config: dict[str, Any], n_numbers: int) -> str:
    """Give the text of a model card: what the model is, from what it was made, how to use it."""
    facts = config["facts"]
    lines = [
        f"# Neural head model ({config['kind']})",
        "",
        f"{n_numbers:,} numbers; {len(config['subjects'])} subjects and {len(config['scans'])} scans in training.",
        f"Canonical units of {config['mm_per_unit']:g} mm; template {config['template_hash'][:8] or 'unknown'}.",
        "",
        "```python",
        "from nphm_core.models.checkpoint import from_pretrained",
        "",
        'head = from_pretrained("THIS_FOLDER")',
        "```",
        "",
    ]
    lines += [f"- {key}: {facts[key]}" for key in sorted(facts) if not isinstance(facts[key], (dict, list))]
    return "\n".join(lines) + "\n"


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"the folder holds no {CONFIG}; expected a model as the training writes it. Give the folder of a model, "
            f"or train one. Folder {folder}"
        )
    try:
        config = read_json(folder / CONFIG)
    except DamagedFileError as error:
        raise _damaged(folder, str(error)) from None
    known = {"pca", *KINDS.values()}
    if not isinstance(config, dict) or config.get("kind") not in known or config.get("format") != FORMAT_VERSION:
        got = (config.get("kind"), config.get("format")) if isinstance(config, dict) else type(config).__name__
        raise _damaged(folder, f"it is {got}; known are the kinds {sorted(known)} in format {FORMAT_VERSION}")
    return config


def _assembled(config: dict[str, Any], tensors: dict[str, Tensor]) -> NeuralHead:
    identity = read_section(IdentityModelConfig, config["identity"], "identity")
    expression = config["expression"]
    if expression is not None:
        expression = read_section(ExpressionModelConfig, expression, "expression")
    _check_size(identity, expression, int(config["n_ambient"]), tensors)
    anchors = tensors["identity.mean_anchors"]
    if anchors.shape != (N_ANCHORS, 3):
        raise ValueError(f"the mean anchors have shape {tuple(anchors.shape)}; expected ({N_ANCHORS}, 3)")
    field = build_identity_field(identity, anchors, n_ambient=int(config["n_ambient"]))
    deformation = None
    if expression is not None:
        deformation = ExpressionField(expression, field.n_code)
    head = NeuralHead(
        field,
        deformation,
        identity_codes=tensors["identity_codes"],
        expression_codes=tensors["expression_codes"],
        subjects=tuple(map(str, config["subjects"])),
        scans=tuple(map(str, config["scans"])),
        template_hash=str(config["template_hash"]),
        facts=dict(config["facts"]),
        shrinkage=_shrinkage(config.get("shrinkage")),
    )
    own = {name: value for name, value in head.state_dict().items() if not _is_kept(name)}
    head.load_state_dict(tensors | own)
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds numbers that are not finite")
    return head


def _single(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.float16 else value


def _shrinkage(stored: Any) -> tuple[Shrinkage | None, Shrinkage | None]:
    if stored is None:
        return None, None
    identity, expression = (Shrinkage(**both) for both in stored)
    for both in (identity, expression):
        if not (0 <= both.share <= 1 and (both.reach is None or both.reach > 0)):
            raise ValueError(f"the shrinkage of a prior is {both}; expected a share up to 1 and a reach above 0")
    return identity, expression


def _check_size(
    identity: IdentityModelConfig, expression: ExpressionModelConfig | None, n_ambient: int, tensors: dict[str, Tensor]
) -> None:
    """Refuse networks much larger than the weights: a few words in config.json can claim any size."""
    n_numbers = sum(value.numel() for value in tensors.values())
    if identity.kind == "ensemble":
        networks = [
            (identity.n_hidden, identity.n_layers, identity.n_global + identity.n_local),
            (identity.n_hidden_anchors, 1, identity.n_global),
        ]
    else:
        networks = [(identity.n_global_hidden, identity.n_global_layers, identity.n_global_code)]
    if expression is not None:
        networks.append((expression.n_hidden, expression.n_layers, expression.n_expression + expression.n_condition))
    for width, n_layers, n_code in networks:
        # Each has a matrix of about its width squared, and one of width times code.
        if n_layers > len(tensors) or width * max(width, n_code + n_ambient) > 4 * n_numbers:
            raise ValueError(f"{n_numbers} weights are too few for a network of width {width} and {n_layers} layers")


def _is_kept(name: str) -> bool:
    # Priors follow from the codes.
    return "_prior." not in name


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the model cannot be used: {reason}; expected what the training writes. Copy it again, or train it again. "
        f"Model {folder}"
    )


def codes_as_numpy(codes: Float[Tensor, "n n_code"]) -> Float[np.ndarray, "n n_code"]:
    """Give codes as an array."""
    return codes.detach().cpu().numpy()
