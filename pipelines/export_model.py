"""Exporting what a trained model knows: its training subjects, or fitted ones, with expressions as morph targets."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nphm_core.errors import CheckpointError, ExportError
from pipelines.export_inputs import check_names, template_of_model

if TYPE_CHECKING:
    from torch import Tensor

    from nphm_core.exports.model_subject import ModelSubject
    from nphm_core.template.template import Template

log = logging.getLogger("nphm")

_MM_PER_METRE = 1000.0


def export_model(options: argparse.Namespace) -> dict[str, Any]:
    """Write one format and give its facts."""
    from nphm_core.models.checkpoint import check_template, from_pretrained
    from nphm_core.template.template import read_template

    if options.scans or options.topology == "registered":
        raise ExportError(
            "--scans and --topology registered belong to --results; expected --subjects, --codes and --expressions for "
            "a model, whose heads have the template's topology. Leave them out"
        )
    head = from_pretrained(options.model, device=options.device)
    template = read_template(template_of_model(head, options.model, options))
    check_template(head.template_hash, template.hash, options.model)
    names, more = [], {}
    for subject in _subjects(head, template, options):
        more = _write(subject, template, options)
        names.append(subject.name)
    return more | {
        "format": options.format,
        "what": f"{len(names)} subjects of a model",
        "space": "canonical",
        "subjects": names,
        "model": {key: value for key, value in head.facts.items() if not isinstance(value, dict)},
        "template": template.name,
        "template_hash": template.hash,
        "template_licence": template.model.licence,
    }


def _subjects(head: Any, template: "Template", options: argparse.Namespace) -> "list[ModelSubject]":
    chosen = options.subjects or ([] if options.codes else list(head.subjects))
    check_names(chosen, list(head.subjects), "subject")
    check_names(options.expressions, list(head.scans), "expression")
    out = []
    for name in chosen:
        own = [scan for scan in head.scans if scan.split("/")[0] == name]
        codes = {_short(scan, name): _code(head, "expression", scan) for scan in options.expressions or own}
        out.append(_subject(head, template, name, _code(head, "identity", name), codes))
    if options.codes:
        out.append(_fitted_subject(head, template, options))
    if not out:
        raise ExportError(
            "the model has no training subjects; expected some, or a fit. Name the codes of a fit with --codes"
        )
    return out


def _fitted_subject(head: Any, template: "Template", options: argparse.Namespace) -> "ModelSubject":
    """Give one subject from codes of its fits: the identity of the first file, the expressions of all."""
    from pipelines.mesh import named_code

    files: list[Path] = options.codes
    identity = named_code(head, "identity", str(files[0])).code
    codes = {_short(scan, ""): _code(head, "expression", scan) for scan in options.expressions}
    if head.scans:
        codes = {path.parent.name: named_code(head, "expression", str(path)).code for path in files} | codes
    name = files[0].parent.parent.name or files[0].stem
    return _subject(head, template, name, identity, codes)


def _subject(
    head: Any, template: "Template", name: str, identity: "Tensor", expressions: "dict[str, Tensor]"
) -> "ModelSubject":
    import torch

    from nphm_core.exports.model_subject import ModelSubject
    from nphm_core.meshing.template_mesh import template_head
    from nphm_core.models.linear_head import LinearHead

    log.info("%s: %d expressions", name, len(expressions))
    if isinstance(head, LinearHead):
        code = identity.double().cpu().numpy()
        posed = {key: head.posed(code, value.double().cpu().numpy()) for key, value in expressions.items()}
        return ModelSubject(name, head.faces, head.canonical(code), posed)
    stacked = torch.stack(list(expressions.values())) if expressions else None
    try:
        found = template_head(head, template, identity, stacked)
    except ValueError as error:
        raise CheckpointError(
            f"the model's expressions cannot be morph targets ({error}); expected a forward model. Mesh single heads "
            "with `python -m pipelines.mesh` instead"
        ) from None
    posed = dict(zip(expressions, found.posed, strict=True))
    return ModelSubject(name, template.faces, found.canonical.vertices, posed)


def _write(subject: "ModelSubject", template: "Template", options: argparse.Namespace) -> dict[str, Any]:
    from nphm_core.exports.registered_scan import CANONICAL_UNIT
    from nphm_core.io.glb import write_glb_metres
    from nphm_core.io.obj_writer import write_obj
    from nphm_core.io.ply import write_ply
    from nphm_core.spaces import MM_PER_CANONICAL_UNIT, MM_PER_UNIT

    if options.format == "glb":
        extras = {"template": template.name, "template_licence": template.model.licence}
        base = subject.meshes(_MM_PER_METRE)["canonical"]
        path = options.out / f"{subject.name}.glb"
        write_glb_metres(path, base, subject.offsets_metres(), name=subject.name, extras=extras)
        return {}
    mm_per_unit = MM_PER_CANONICAL_UNIT if options.unit == CANONICAL_UNIT else MM_PER_UNIT[options.unit]
    for name, mesh in subject.meshes(mm_per_unit).items():
        path = options.out / subject.name / f"{name}.{options.format}"
        if options.format == "ply":
            write_ply(path, mesh)
        elif options.format == "obj":
            write_obj(path, mesh, remark=f"{subject.name}, {name}, canonical space, unit {options.unit}")
        else:
            more = _write_landmarks(path.with_suffix(""), mesh.vertices, template)
    return more if options.format == "landmarks" else {}


def _write_landmarks(folder: Path, vertices: Any, template: "Template") -> dict[str, Any]:
    from nphm_core.exports.ibug_landmarks import ibug_embedding
    from nphm_core.exports.nphm_layout import write_npy
    from pipelines.export_results import landmark_facts

    embedding = ibug_embedding(template)
    # A linear model's mesh may be subdivided; its first vertices are the template's own.
    write_npy(folder / f"landmarks{len(embedding.number)}.npy", embedding.points(vertices, template.faces))
    write_npy(folder / "now7.npy", embedding.now7(vertices, template.faces))
    return landmark_facts(embedding.source, embedding.number.tolist())


def _code(head: Any, kind: str, name: str) -> "Tensor":
    from pipelines.mesh import named_code

    return named_code(head, kind, name).code


def _short(scan: str, subject: str) -> str:
    """Give the name of a target: the expression's own, with its subject before it where that is another one."""
    who, expression = scan.split("/")
    return expression if who == subject else f"{who}-{expression}"
