"""Reading what `pipelines.export` exports: the registered scans of a run, and the template they were made with."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nphm_core.config import TemplateConfig
from nphm_core.errors import ExportError
from nphm_core.exports.registered_scan import RegisteredScan
from nphm_core.io.files import read_json, read_npz
from nphm_core.io.meshes import read_facts, read_mesh
from nphm_core.models.pretrained import pretrained_folder
from nphm_core.records import read_record, scan_folder
from nphm_core.spaces import Similarity
from nphm_core.template.model import Coefficients

_MAX_SHOWN = 8


@dataclass(frozen=True)
class ScanChoice:
    """The scans of a run: those to export, and why others are not."""

    rows: tuple[tuple[str, str, str], ...]
    """(subject, expression, neutral) of every scan of the run that was registered."""
    chosen: tuple[str, ...]
    """Ids of the scans to export, in order."""
    left_out: dict[str, str]
    """Reasons by scan id, of scans that were asked for."""


def choose_scans(results: Path, subjects: list[str], scan_ids: list[str]) -> ScanChoice:
    """Give the registered scans of a run, all of them or those of subjects and ids.

    Raises ExportError for a name that the run does not have, and where nothing is left.
    """
    all_ids = sorted(path.parent.relative_to(results / "scans").as_posix() for path in results.glob("scans/*/*/stages"))
    if not all_ids:
        raise ExportError(
            "the folder holds no scans; expected the results of a run, with a folder scans/. "
            f"Give the folder that `results` names in the config. Folder {results}"
        )
    _check_known("subject", subjects, sorted({scan.split("/")[0] for scan in all_ids}))
    _check_known("scan", scan_ids, all_ids)
    wanted = [
        scan
        for scan in all_ids
        if (not subjects and not scan_ids) or scan.split("/")[0] in subjects or scan in scan_ids
    ]
    reasons = {scan: _trouble(results, scan) for scan in all_ids}
    chosen = tuple(scan for scan in wanted if not reasons[scan])
    left_out = {scan: reasons[scan] for scan in wanted if reasons[scan]}
    if not chosen:
        first = next(iter(left_out.items()))
        raise ExportError(
            f"none of the {len(wanted)} scans was registered; expected at least one. Run the workflow, and read why in "
            f"summary.tsv. The first reason: {first[1]}. Scan {first[0]}"
        )
    rows = tuple((*scan.split("/"), _neutral(results, scan)) for scan in all_ids if not reasons[scan])
    return ScanChoice(rows, chosen, left_out)  # type: ignore[arg-type]


def read_registered_scan(results: Path, scan_id: str, template_hash: str) -> RegisteredScan:
    """Read one registered scan; TopologyError where it was made with another template."""
    folder = scan_folder(results, scan_id)
    facts, arrays = read_json(folder / "flame.json"), read_npz(folder / "flame.npz")
    subject, expression = scan_id.split("/")

    def read_scan() -> Any:
        # Late: it brings the compiled kernels along.
        from pipelines.stage_inputs import metric_scan

        return metric_scan(folder)

    return RegisteredScan(
        subject,
        expression,
        _neutral(results, scan_id),
        read_mesh(folder / "registered.ply", template_hash=template_hash),
        Coefficients(arrays["identity"], arrays["expression"], arrays["joint_rotvec"]),
        arrays["vertices_mm"].astype(np.float64),
        Similarity.from_json(facts["T_metric_model"]),
        Similarity.from_json(facts["T_canonical_metric"]),
        float(read_json(folder / "landmarks3d.json")["mm_per_scan_unit"]),
        read_scan,
    )


def subdivision_facts(results: Path, scan_id: str) -> dict[str, Any]:
    """Give how the template was refined for a scan's registered mesh: `levels` and `region`."""
    facts = read_facts(scan_folder(results, scan_id) / "registered.ply")
    return {"levels": facts["levels"], "region": facts["region"]}


def template_hash_of(results: Path, scan_id: str) -> str:
    """Give the hash of the template that a scan was registered with."""
    return str(read_facts(scan_folder(results, scan_id) / "registered.ply")["template_hash"])


def find_template(wanted: str, cache: Path) -> Path:
    """Give the folder of the template with this hash in a cache; ExportError where it is not there."""
    folders = sorted((cache / "templates").glob("*/template.json"))
    for facts in folders:
        if read_json(facts).get("hash") == wanted:
            return facts.parent
    raise ExportError(
        f"none of the {len(folders)} templates in the cache is {wanted[:8]}, with which this was made; expected it "
        f"there. Name its folder with --template, or the cache with --cache. Cache {cache}"
    )


def template_of_model(head: Any, model: Path, options: argparse.Namespace) -> Path:
    """Give the folder of a model's template: the named one, the one in the cache, or that of our own model, built."""
    if options.template is not None:
        return Path(options.template)
    try:
        return find_template(head.template_hash, options.cache)
    except ExportError:
        if Path(model) != pretrained_folder():
            raise
        from pipelines.template import cached_template

        return cached_template(str(options.cache), TemplateConfig())


def check_names(names: list[str], known: list[str], noun: str) -> None:
    """Raise ExportError for names that are not known."""
    _check_known(noun, names, known)


def _check_known(noun: str, names: list[str], known: list[str]) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        some = ", ".join([*known[:_MAX_SHOWN], *(["..."] if len(known) > _MAX_SHOWN else [])])
        raise ExportError(
            f"{len(missing)} {noun}s are not there; expected names among the {len(known)} that are: {some}. "
            f"Correct --{noun}s. Missing: {', '.join(missing[:_MAX_SHOWN])}"
        )


def _trouble(results: Path, scan_id: str) -> str:
    record = read_record(results, scan_id, "arap")
    if record is None:
        return "the stage arap has not run"
    if record["status"] != "ok":
        return f"{record.get('blocked_by', 'arap')}: {' '.join(str(record['reason']).split())}"
    verdict = (read_record(results, scan_id, "evaluate") or {}).get("metrics", {})
    if verdict.get("verdict") == "failed":
        return f"{verdict['stage']}: {'; '.join(verdict['reasons'])}"
    return ""


def _neutral(results: Path, scan_id: str) -> str:
    return str(((read_record(results, scan_id, "ingest") or {}).get("metrics", {}).get("row", {})).get("neutral", ""))
