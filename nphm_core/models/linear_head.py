"""The linear head model: a mean head, identity components and expression components on one topology.

It is the baseline that neural head models are measured against, so it has what they have: codes of the training
subjects and scans, a Gaussian prior of each code, a template hash, a checkpoint folder. Positions are canonical. The
coefficients are whitened: over the training set each has variance one and no two correlate. An expression code of
zero is the canonical neutral; the mean of the training codes is elsewhere, as most scans show another expression.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from nphm_core.errors import CheckpointError
from nphm_core.io.files import read_json, read_safetensors, write_json, write_safetensors, write_text
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.template.template import topology_hash

KIND = "pca"
FORMAT_VERSION = 1

_ARRAYS = (
    "mean",
    "identity_basis",
    "expression_basis",
    "expression_mean",
    "faces",
    "anchors",
    "visible",
    "identity_codes",
    "expression_codes",
)


@dataclass(frozen=True)
class LinearHead:
    """`posed = mean + identity_basis @ identity_code + expression_basis @ expression_code`, canonical units."""

    mean: Float32[ndarray, "n_vertices 3"]
    """Mean of the training subjects' canonical neutrals."""
    identity_basis: Float32[ndarray, "n_vertices 3 n_identity"]
    """Shift of each vertex for one standard deviation of each coefficient, the strongest first."""
    expression_basis: Float32[ndarray, "n_vertices 3 n_expression"]
    expression_mean: Float32[ndarray, " n_expression"]
    """Mean expression code of the training scans; the identity codes' mean is zero."""
    faces: Int[ndarray, "n_faces 3"]
    anchors: Int[ndarray, " n_anchors"]
    """Vertices of the template's anchors."""
    visible: Bool[ndarray, " n_vertices"]
    """Vertices that a scanner may see; the others are never brought to observed points."""
    template_hash: str
    """Of the template that was registered, not of its subdivision."""
    subjects: tuple[str, ...] = ()
    scans: tuple[str, ...] = ()
    identity_codes: Float32[ndarray, "n_subjects n_identity"] = field(default_factory=lambda: np.zeros((0, 0), "f4"))
    """Codes of the training subjects, in the order of `subjects`."""
    expression_codes: Float32[ndarray, "n_scans n_expression"] = field(default_factory=lambda: np.zeros((0, 0), "f4"))
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def n_identity(self) -> int:
        """Length of an identity code."""
        return self.identity_basis.shape[2]

    @property
    def n_expression(self) -> int:
        """Length of an expression code."""
        return self.expression_basis.shape[2]

    def canonical(self, identity_code: Float[ndarray, " n_identity"]) -> Float[ndarray, "n_vertices 3"]:
        """Give a subject's canonical neutral."""
        return self.mean + _moved(self.identity_basis, identity_code)

    def posed(
        self, identity_code: Float[ndarray, " n_identity"], expression_code: Float[ndarray, " n_expression"]
    ) -> Float[ndarray, "n_vertices 3"]:
        """Give a subject's vertices in an expression."""
        return self.canonical(identity_code) + _moved(self.expression_basis, expression_code)

    def draw_codes(
        self, *, rng: np.random.Generator
    ) -> tuple[Float[ndarray, " n_identity"], Float[ndarray, " n_expression"]]:
        """Draw an identity code and an expression code from their priors."""
        identity = rng.standard_normal(self.n_identity)
        return identity, self.expression_mean + rng.standard_normal(self.n_expression)


def write_linear_head(folder: Path, head: LinearHead, facts: dict[str, Any]) -> None:
    """Write a checkpoint folder: weights, a model card, then `config.json`, whose presence says that it is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    arrays = {name: np.asarray(getattr(head, name)) for name in _ARRAYS}
    arrays["visible"] = arrays["visible"].astype(np.uint8)
    arrays["faces"], arrays["anchors"] = arrays["faces"].astype(np.int32), arrays["anchors"].astype(np.int64)
    write_safetensors(folder / "model.safetensors", arrays, {"kind": KIND, "template_hash": head.template_hash})
    own = {
        "kind": KIND,
        "format": FORMAT_VERSION,
        "space": "canonical",
        "mm_per_unit": MM_PER_CANONICAL_UNIT,
        "template_hash": head.template_hash,
        "topology": topology_hash(len(head.mean), head.faces),
        "n_identity": head.n_identity,
        "n_expression": head.n_expression,
        "subjects": list(head.subjects),
        "scans": list(head.scans),
        "facts": head.facts | facts,
    }
    write_text(folder / "README.md", _model_card(own))
    write_json(folder / "config.json", own)


def read_linear_head(folder: Path, template_hash: str | None = None) -> LinearHead:
    """Read what `write_linear_head` wrote; CheckpointError if it is damaged or of another template."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "the folder holds no config.json; expected what `python -m pipelines.train_baselines` writes. "
            f"Train the model again, or correct the path. Folder {folder}"
        )
    config = read_json(folder / "config.json")
    if config.get("kind") != KIND or config.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint is of kind {config.get('kind')} {config.get('format')}; expected {KIND} {FORMAT_VERSION}. "
            f"Read it with `from_pretrained`, or train it again with this version. Folder {folder}"
        )
    if template_hash and config["template_hash"] not in ("", template_hash):
        raise CheckpointError(
            f"the checkpoint belongs to the template {config['template_hash'][:8]}; expected {template_hash[:8]}. "
            f"Set template.source to the one it was trained with, or train it again. Folder {folder}"
        )
    arrays, _ = read_safetensors(folder / "model.safetensors")
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing or topology_hash(len(arrays["mean"]), arrays["faces"]) != config["topology"]:
        raise CheckpointError(
            f"the weights do not belong to their config.json (missing: {', '.join(missing) or 'nothing'}); expected "
            f"both from one training. Copy the folder as a whole, or train it again. Folder {folder}"
        )
    arrays["faces"], arrays["visible"] = arrays["faces"].astype(np.int64), arrays["visible"].astype(bool)
    return LinearHead(
        **{name: arrays[name] for name in _ARRAYS},
        template_hash=config["template_hash"],
        subjects=tuple(config["subjects"]),
        scans=tuple(config["scans"]),
        facts=config["facts"],
    )


def _moved(basis: Float32[ndarray, "n 3 k"], code: Float[ndarray, " k"]) -> Float[ndarray, "n 3"]:
    return (basis.reshape(3 * len(basis), basis.shape[2]) @ code.astype(np.float32)).reshape(-1, 3).astype(np.float64)


def _model_card(config: dict[str, Any]) -> str:
    facts = config["facts"]
    lines = [
        "# Linear head model (principal components)",
        "",
        f"{config['n_identity']} identity components from {len(config['subjects'])} subjects,",
        f"{config['n_expression']} expression components from {len(config['scans'])} scans.",
        f"Canonical units of {MM_PER_CANONICAL_UNIT:g} mm; template {config['template_hash'][:8] or 'unknown'}.",
        "",
        *(f"- {key}: {facts[key]}" for key in sorted(facts) if not isinstance(facts[key], (dict, list))),
    ]
    return "\n".join(lines) + "\n"
