"""Make meshes of heads that a trained model knows, draws or mixes.

An identity is a training subject, `mean`, or a codes.safetensors of a fit; an expression a training scan
(SUBJECT/EXPRESSION), `mean`, or such a file. The expression of one subject on another is just both options with
different names. Without --expression the head is in canonical space's neutral. Several heads get numbers in their file
names; the JSON beside each says what it is. With --template the mesh has the template's topology, and its JSON
landmarks.
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nphm_core.errors import CheckpointError, ConfigError, NphmError
from nphm_core.models.pretrained import pretrained_folder

if TYPE_CHECKING:
    from torch import Tensor

    from nphm_core.geometry.mesh import Mesh

log = logging.getLogger("nphm")

MEAN = "mean"


@dataclass(frozen=True)
class NamedCode:
    """A code and what it is called in the facts of a mesh."""

    name: str
    code: "Tensor"


def main(arguments: list[str] | None = None) -> int:
    """Write the meshes and print where they lie; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        for path in write_heads(options):
            print(path)
    except NphmError as error:
        log.error("%s", error)
        return 1
    return 0


def write_heads(options: argparse.Namespace) -> list[Path]:
    """Write what the options ask for and give the paths of the meshes."""
    from nphm_core.models.checkpoint import from_pretrained

    head = from_pretrained(options.model, device=options.device)
    identities = identities_of(head, options)
    expressions = [named_code(head, "expression", name) for name in options.expression]
    n_all = len(identities) * max(1, len(expressions))
    written: list[Path] = []
    for identity in identities:
        for mesh, facts in heads_of(head, identity, expressions, options):
            path = options.out if n_all == 1 else _numbered(options.out, len(written), n_all)
            _write(path, mesh, facts | {"model": head.facts, "template_hash": head.template_hash}, options.space)
            written.append(path)
    return written


def identities_of(head: Any, options: argparse.Namespace) -> list[NamedCode]:
    """Give the identity codes that the options name, draw or mix, with swapped regions where they ask for it."""
    import torch

    from nphm_core.models.codes import interpolate_codes, sample_codes

    if options.sample:
        generator = torch.Generator().manual_seed(options.seed)
        drawn = sample_codes(
            _prior(head, "identity").cpu(), options.sample, generator=generator, temperature=options.temperature
        )
        out = [NamedCode(f"sample {k} of seed {options.seed}", code) for k, code in enumerate(drawn)]
    elif options.interpolate:
        first, last = (named_code(head, "identity", name) for name in options.interpolate)
        line = interpolate_codes(first.code, last.code, options.steps)
        out = [NamedCode(f"step {k} of {options.steps}: {first.name}, {last.name}", c) for k, c in enumerate(line)]
    else:
        out = [named_code(head, "identity", options.identity)]
    out = [NamedCode(named.name, named.code.to(options.device)) for named in out]
    return [_swapped(head, named, *options.swap) for named in out] if options.swap else out


def named_code(head: Any, kind: str, name: str) -> NamedCode:
    """Give the `identity` or `expression` code of a name or file; CheckpointError where there is none."""
    import torch

    codes = torch.as_tensor(getattr(head, f"{kind}_codes"))
    names = head.subjects if kind == "identity" else head.scans
    if name in names:
        return NamedCode(name, codes[names.index(name)])
    if name == MEAN:
        return NamedCode(name, _prior(head, kind).mean)
    if name.endswith(".safetensors"):
        return NamedCode(Path(name).name, _code_of_file(Path(name), kind, codes.shape[1]).to(codes))
    noun = "subject" if kind == "identity" else "scan"
    some = ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])]) or "none"
    raise CheckpointError(
        f"the model has no {noun} of this name; it has {len(names)} ({some}), `{MEAN}`, or give a codes.safetensors "
        f"of a fit. Name {name}"
    )


def heads_of(
    head: Any, identity: NamedCode, expressions: list[NamedCode], options: argparse.Namespace
) -> "list[tuple[Mesh, dict[str, Any]]]":
    """Give the canonical meshes of an identity, one for each expression, and their facts."""
    from nphm_core.models.linear_head import LinearHead

    wanted: list[str | None] = [named.name for named in expressions] or [None]
    facts = [{"identity": identity.name, "expression": name} for name in wanted]
    if isinstance(head, LinearHead):
        return list(zip(_linear_meshes(head, identity, expressions), facts, strict=True))
    _check_expressions(head, expressions)
    if options.template:
        return _template_meshes(head, identity, expressions, facts, options.template)
    from nphm_core.meshing import Extraction, canonical_mesh, posed_meshes

    how = Extraction(options.resolution, options.coarse_resolution, keep_largest=options.keep_largest)
    facts = [fact | {"resolution": options.resolution} for fact in facts]
    if not expressions:
        return [(canonical_mesh(head, identity.code, how), facts[0])]
    return list(zip(posed_meshes(head, identity.code, _stacked(expressions), how), facts, strict=True))


def _template_meshes(
    head: Any, identity: NamedCode, expressions: list[NamedCode], facts: list[dict[str, Any]], folder: Path
) -> "list[tuple[Mesh, dict[str, Any]]]":
    from nphm_core.meshing.template_mesh import template_head
    from nphm_core.models.checkpoint import check_template
    from nphm_core.template.template import read_template

    template = read_template(folder)
    check_template(head.template_hash, template.hash, folder)
    codes = _stacked(expressions) if expressions else None
    found = template_head(head, template, identity.code, codes)
    out = []
    for k, fact in enumerate(facts):
        shown = k if expressions else None
        more: dict[str, Any] = {
            "on_surface_share": round(float(found.canonical.on_surface.mean()), 4),
            "landmarks": {str(i): point for i, point in found.landmarks(shown).items()},
        }
        ibug = found.landmarks68(shown)
        out.append((found.mesh(shown), fact | more | ({} if ibug is None else {"landmarks68": ibug})))
    return out


def _linear_meshes(head: Any, identity: NamedCode, expressions: list[NamedCode]) -> "list[Mesh]":
    from nphm_core.geometry.mesh import Mesh

    code = identity.code.double().cpu().numpy()
    if not expressions:
        return [Mesh(head.canonical(code), head.faces)]
    return [Mesh(head.posed(code, named.code.double().cpu().numpy()), head.faces) for named in expressions]


def _check_expressions(head: Any, expressions: list[NamedCode]) -> None:
    if expressions and head.expression is None:
        raise CheckpointError(
            "the model has no expression field; expected one for --expression. Train it with "
            "`python -m pipelines.train_expression`, or leave the option out"
        )


def _swapped(head: Any, named: NamedCode, regions: str, source: str) -> NamedCode:
    from nphm_core.models.codes import CodeLayout, swap_regions

    if not hasattr(head, "identity"):
        raise ConfigError("the codes of a linear model have no regions; expected an NPHM for --swap. Leave it out")
    try:
        layout = CodeLayout.of(head.identity.settings)
        other = named_code(head, "identity", source)
        code = swap_regions(named.code[None], other.code[None].to(named.code), tuple(regions.split(",")), layout)[0]
    except ValueError as error:
        raise ConfigError(f"--swap cannot be done: {error}. Correct the option") from None
    return NamedCode(f"{named.name} with {regions} of {other.name}", code)


def _prior(head: Any, kind: str) -> Any:
    import torch

    from nphm_core.models.priors import GaussianPrior

    # A linear head has codes, but no module for its prior.
    prior = getattr(head, f"{kind}_prior", None)
    return prior or GaussianPrior.from_codes(torch.as_tensor(getattr(head, f"{kind}_codes")))


def _code_of_file(path: Path, kind: str, n_code: int) -> "Tensor":
    import torch

    from nphm_core.io.files import read_safetensors

    arrays, _ = read_safetensors(path)
    code = arrays.get(f"{kind}_code")
    if code is None or code.shape != (n_code,):
        got = f"one of {code.shape}" if code is not None else f"{', '.join(arrays) or 'nothing'}"
        raise CheckpointError(
            f"the file holds {got}; expected {kind}_code with {n_code} numbers, as a fit of this model writes it. "
            f"Give a fit of this model. File {path}"
        )
    return torch.from_numpy(code)


def _stacked(expressions: list[NamedCode]) -> "Tensor":
    import torch

    return torch.stack([named.code for named in expressions])


def _numbered(path: Path, k: int, n_all: int) -> Path:
    return path.with_name(f"{path.stem}-{k:0{len(str(n_all - 1))}d}{path.suffix}")


def _write(path: Path, mesh: "Mesh", facts: dict[str, Any], space: str) -> None:
    from nphm_core.io.meshes import write_mesh
    from nphm_core.spaces import MM_PER_CANONICAL_UNIT

    scale = 1.0 if space == "canonical" else MM_PER_CANONICAL_UNIT
    if mesh.n_faces == 0:
        raise CheckpointError(
            "the model has no surface for this head in its box; expected a head. Train it longer, or lower "
            f"--temperature. Mesh {path}"
        )
    for key in ("landmarks", "landmarks68"):
        if key in facts:
            facts[key] = _scaled(facts[key], scale)
    facts |= {"space": space, "unit": "mm" if space == "metric" else "canonical", "stage": "mesh"}
    facts["mm_per_unit"] = MM_PER_CANONICAL_UNIT / scale
    write_mesh(path, mesh.with_vertices(scale * mesh.vertices), facts)


def _scaled(points: Any, scale: float) -> Any:
    if isinstance(points, dict):
        return {key: scale * point for key, point in points.items()}
    return scale * points


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.mesh", description=__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        default=pretrained_folder(),
        help="folder of a trained model, by default ours",
    )
    parser.add_argument("--out", type=Path, required=True, help="PLY to write")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--identity", default=MEAN, metavar="NAME|FILE", help="subject, file of codes, or `mean`")
    who.add_argument("--sample", type=int, default=0, metavar="N", help="draw N identities from the prior")
    who.add_argument("--interpolate", nargs=2, metavar=("A", "B"), help="go from one identity to another")
    parser.add_argument("--expression", nargs="+", default=[], metavar="NAME|FILE", help="scans, files, or `mean`")
    parser.add_argument("--swap", nargs=2, metavar=("REGIONS", "FROM"), help="take regions (mouth,nose) from another")
    parser.add_argument("--steps", type=int, default=5, help="heads of --interpolate, both ends included")
    parser.add_argument("--seed", type=int, default=0, help="seed of --sample")
    parser.add_argument("--temperature", type=float, default=1.0, help="of --sample: below 1 is nearer to the mean")
    parser.add_argument("--resolution", type=int, default=256, help="cells along the longest side of the box")
    parser.add_argument("--coarse-resolution", type=int, default=32, help="finer finds smaller loose pieces")
    parser.add_argument("--keep-largest", action="store_true", help="drop loose pieces")
    parser.add_argument("--template", type=Path, metavar="FOLDER", help="give the mesh this template's topology")
    parser.add_argument("--space", choices=("canonical", "metric"), default="metric", help="250 mm units, or mm")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser


if __name__ == "__main__":
    sys.exit(main())
