"""Exporting the registered scans of a run, one scan or one subject in memory at a time."""

import argparse
import csv
import logging
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nphm_core.errors import ExportError
from nphm_core.exports.flame_files import (
    check_flame_form,
    flame_model_arrays,
    flame_parameters,
    has_flame_topology,
    may_pass_on,
)
from nphm_core.exports.ibug_landmarks import NOW7, ibug_embedding
from nphm_core.exports.morph_targets import base_scan, blendshape_targets, captured_targets, joined_targets
from nphm_core.exports.nphm_layout import (
    NphmNumbers,
    nphm_numbers,
    write_assets,
    write_neutrals,
    write_nphm_scan,
    write_npy,
)
from nphm_core.exports.registered_scan import RegisteredScan, export_map, moved_mesh
from nphm_core.exports.svfr import write_svfr_image, zip_folder
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import write_npz
from nphm_core.io.glb import write_glb_metres
from nphm_core.io.obj_writer import write_obj
from nphm_core.io.ply import write_ply
from nphm_core.records import read_record
from nphm_core.template.template import Template, read_template
from pipelines.export_inputs import (
    ScanChoice,
    choose_scans,
    find_template,
    read_registered_scan,
    subdivision_facts,
    template_hash_of,
)

if TYPE_CHECKING:
    from nphm_core.supervision.sample_delta import DeltaPairs

log = logging.getLogger("nphm")

_KEY = re.compile(r"[A-Za-z0-9_+-]+")


class Export:
    """One export of a run: the choice of scans, the template, and what is told of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Choose scans and read the template."""
        self.options, self.out = options, Path(options.out)
        self.choice: ScanChoice = choose_scans(options.results, options.subjects, options.scans)
        found = template_hash_of(options.results, self.choice.chosen[0])
        self.template: Template = read_template(options.template or find_template(found, options.cache))
        self.facts: dict[str, Any] = {}

    def scans(self) -> Iterator[RegisteredScan]:
        """Read the chosen scans, one after the other."""
        for k, scan_id in enumerate(self.choice.chosen, start=1):
            log.info("%s (%d of %d)", scan_id, k, len(self.choice.chosen))
            yield read_registered_scan(self.options.results, scan_id, self.template.hash)

    def subjects(self) -> Iterator[tuple[str, list[RegisteredScan]]]:
        """Read the chosen scans, those of one subject together."""
        for subject, scans in groupby(self.scans(), key=lambda scan: scan.subject):
            yield subject, list(scans)

    def numbers(self) -> NphmNumbers:
        """Give the numbers of the NPHM layout."""
        return nphm_numbers(self.choice.rows)


def export_results(options: argparse.Namespace) -> dict[str, Any]:
    """Write one format and give its facts."""
    job = Export(options)
    for scan_id, reason in job.choice.left_out.items():
        log.warning("left out: %s: %s", scan_id, reason)
    _WRITERS[options.format](job)
    template = job.template
    records = {
        scan_id: {"version": record["version"], "registered_sha256": record["artifacts"]["registered.ply"]["sha256"]}
        for scan_id in job.choice.chosen
        if (record := read_record(options.results, scan_id, "arap")) is not None
    }
    return job.facts | {
        "format": options.format,
        "what": f"{len(job.choice.chosen)} scans",
        "scans": records,
        "left_out": job.choice.left_out,
        "template": template.name,
        "template_hash": template.hash,
        "template_licence": template.model.licence,
        "topology_is_flame": has_flame_topology(template),
    }


def _write_nphm(job: Export) -> None:
    from nphm_core.config import SubdivideConfig
    from nphm_core.evaluation.fine_template import fine_template

    numbers, anchors = job.numbers(), []
    for scan in job.scans():
        write_nphm_scan(job.out, scan, job.template, numbers)
        if scan.neutral == "open":
            anchors.append(scan.T_canonical_metric.apply(scan.registered.vertices[job.template.anchors]))
        if job.options.with_samples:
            _write_samples(job, scan, numbers)
    chosen = [row for row in job.choice.rows if f"{row[0]}/{row[1]}" in job.choice.chosen]
    write_neutrals(job.out, chosen, numbers)
    how = SubdivideConfig(**subdivision_facts(job.options.results, job.choice.chosen[0]))
    regions = fine_template(job.template, how).regions
    write_assets(job.out, job.template, anchors, regions["face"] | regions["ears"])
    job.facts = {
        "space": "canonical",
        "mm_per_unit": 250.0,
        "subject_numbers": numbers.subject,
        "expression_numbers": numbers.expression,
    }
    if not has_flame_topology(job.template):
        log.warning(
            "the template has not FLAME's topology: code that knows vertices by FLAME's numbers (anchors, throat cut) "
            "needs the files in assets/ in place of its own, or --with-samples, which are cut already"
        )


def _write_samples(job: Export, scan: RegisteredScan, numbers: NphmNumbers) -> None:
    from nphm_core.exports.nphm_samples import write_identity_samples, write_pair_samples
    from nphm_core.records import scan_folder
    from nphm_core.seeds import rng_for
    from nphm_core.supervision.sample_file import SdfSampleReader

    subject, expression = numbers.subject[scan.subject], numbers.expression[scan.expression]
    folder = scan_folder(job.options.results, scan.scan_id)
    if scan.neutral == "open":
        write_identity_samples(job.out, subject, expression, SdfSampleReader(folder / "samples_sdf.safetensors"))
    rng = rng_for(job.options.seed, "export", scan.scan_id)
    write_pair_samples(job.out, subject, expression, _pairs(folder, scan), rng=rng)


def _pairs(folder: Path, scan: RegisteredScan) -> "DeltaPairs":
    from nphm_core.supervision.sample_delta import read_delta_pairs

    path = folder / "samples_delta.safetensors"
    return read_delta_pairs(path, scan.registered.faces, scan.registered.n_vertices)


def _write_flame(job: Export) -> None:
    model = job.template.model
    check_flame_form(model)
    for scan in job.scans():
        folder, T = job.out / scan.subject / scan.expression, scan.to_metres
        write_ply(folder / "registered.ply", moved_mesh(scan.mesh(job.template, "template"), T))
        write_ply(folder / "fit.ply", Mesh(T.apply(scan.fit_vertices_mm), job.template.faces))
        write_npz(folder / "params.npz", flame_parameters(scan))
    if may_pass_on(model):
        write_npz(job.out / "model.npz", flame_model_arrays(model))
    else:
        log.info("the head model itself is not exported: its licence (%s) is yours to keep", model.licence)
    job.facts = {"space": "canonical", "head": "scale * R(rotation) @ model(shape, expression, joints) + translation"}
    if not has_flame_topology(job.template):
        log.warning("the template has FLAME's joints, but %d vertices, not FLAME's 5023", job.template.n_vertices)


def _write_meshes(job: Export) -> None:
    options, suffix = job.options, job.options.format
    topology = options.topology or "registered"
    for scan in job.scans():
        mesh = moved_mesh(scan.mesh(job.template, topology), export_map(scan, options.space, options.unit))
        path = job.out / scan.subject / f"{scan.expression}.{suffix}"
        if suffix == "ply":
            write_ply(path, mesh)
        else:
            write_obj(path, mesh, remark=f"{scan.scan_id}, {options.space} space, unit {options.unit}")
    job.facts = {"space": options.space, "topology": topology}


def _write_glb(job: Export) -> None:
    topology, wanted = job.options.topology or "template", job.options.targets
    if topology == "registered" and wanted != "captured":
        log.warning("the head model's blendshapes are in the template's topology only: captured expressions alone")
        wanted = "captured"
    names = {}
    for subject, scans in job.subjects():
        base = base_scan(scans)
        captured = {} if wanted == "blendshapes" else captured_targets(base, scans, job.template, topology)
        blendshapes = {} if wanted == "captured" else blendshape_targets(base, job.template)
        targets = joined_targets(captured, blendshapes)
        mesh = moved_mesh(base.mesh(job.template, topology), base.to_metres)
        extras = {"template": job.template.name, "template_licence": job.template.model.licence, "base": base.scan_id}
        write_glb_metres(job.out / f"{subject}.glb", mesh, targets, name=subject, extras=extras)
        names[subject] = {"base": base.expression, "targets": list(targets)}
    job.facts = {"space": "canonical", "topology": topology, "subjects": names}


def _write_landmarks(job: Export) -> None:
    options, embedding = job.options, ibug_embedding(job.template)
    for scan in job.scans():
        T = export_map(scan, options.space, options.unit)
        vertices = T.apply(scan.mesh(job.template, "template").vertices)
        stem = job.out / scan.subject / scan.expression
        write_npy(stem / f"landmarks{len(embedding.number)}.npy", embedding.points(vertices, job.template.faces))
        write_npy(stem / "now7.npy", embedding.now7(vertices, job.template.faces))
    job.facts = landmark_facts(embedding.source, embedding.number.tolist()) | {"space": options.space}


def landmark_facts(source: str, numbers: list[int]) -> dict[str, Any]:
    """Give what is told of landmark files: which of the 68 their rows are, and where they come from."""
    return {"landmarks_from": source, "rows_of_landmarks": numbers, "rows_of_now7": list(NOW7)}


def _write_svfr(job: Export) -> None:
    keys = _image_keys(job)
    embedding = ibug_embedding(job.template)
    for scan in job.scans():
        if scan.scan_id in keys:
            write_svfr_image(job.out, *keys[scan.scan_id], scan, job.template, embedding)
        else:
            log.warning("left out: %s: it has no image key", scan.scan_id)
    zip_folder(job.out, job.out / "svfr_submission.zip")
    job.facts = {"space": "canonical", "image_keys": {scan: "/".join(key) for scan, key in keys.items()}}


def _image_keys(job: Export) -> dict[str, tuple[str, str]]:
    """Give participant and image key by scan: those of the table, or names as they are where there is none."""
    if job.options.keys is None:
        log.warning("no --keys: folders have the names of our scans, which the benchmark does not know")
        numbers = job.numbers().subject
        return {scan: (f"{numbers[scan.split('/')[0]]:03d}", scan.split("/")[1]) for scan in job.choice.chosen}
    try:
        with Path(job.options.keys).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        out = {f"{r['subject']}/{r['expression']}": (f"{int(r['participant']):03d}", r["image_key"]) for r in rows}
    except (OSError, KeyError, TypeError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise ExportError(
            f"the table of image keys cannot be read ({error}); expected a TSV with the columns subject, expression, "
            f"participant and image_key. Correct it. File {job.options.keys}"
        ) from None
    bad = [key for _, key in out.values() if not _KEY.fullmatch(key)]
    if bad or len(set(out.values())) < len(out):
        raise ExportError(
            f"the image keys are no names of folders, or are not unique ({bad[:3]}); expected the benchmark's, such as "
            f"FREE_786_222200038. Correct the table. File {job.options.keys}"
        )
    return out


_WRITERS: dict[str, Callable[[Export], None]] = {
    "nphm": _write_nphm,
    "flame": _write_flame,
    "ply": _write_meshes,
    "obj": _write_meshes,
    "glb": _write_glb,
    "landmarks": _write_landmarks,
    "svfr": _write_svfr,
}
