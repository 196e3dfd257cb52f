"""Measure fitted heads against their whole scans, in mm, and write the table of them all.

The folder of fits holds SUBJECT/EXPRESSION/mesh.ply in the scan's metric space, as `pipelines.fit` writes it. What the
columns mean: docs/explanation/model-measures.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nphm_core.config import EvaluateModelConfig, read_section
from nphm_core.errors import ConfigError, NphmError
from nphm_core.evaluation.result_table import ResultRow, failure_list, result_tsv, summary_markdown
from nphm_core.io.files import write_json, write_text
from nphm_core.stages import MODEL_STAGES, Stage
from pipelines.stage_command import Job, settings_json

if TYPE_CHECKING:
    from nphm_core.evaluation.model_measures import FitMeasures
    from nphm_core.geometry.mesh import Mesh
    from nphm_core.template.template import Template

log = logging.getLogger("nphm")

_STAGE = Stage("evaluate_model", MODEL_STAGES["evaluate_model"], uses_template=True, uses_seed=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code, 1 where no fit could be measured."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings: EvaluateModelConfig = read_section(
            EvaluateModelConfig, settings_json(options.settings), "evaluate_model"
        )
        rows = measure_fits(options, settings)
    except NphmError as error:
        log.error("%s", error)
        return 1
    write_text(options.out, result_tsv(rows))
    tables = [summary_markdown(rows, ["model"], statistic=statistic) for statistic in ("median", "mean")]
    text = "\n".join([*tables, failure_list(rows)])
    write_text(options.out.with_suffix(".md"), text)
    print(text, end="")
    print(f"table: {options.out}")
    return 0 if any(row.measures for row in rows) else 1


def measure_fits(options: argparse.Namespace, settings: EvaluateModelConfig) -> list[ResultRow]:
    """Measure every fit, write metrics.json beside each, and give a row for each, the failed ones too."""
    from nphm_core.template.template import read_template

    template = read_template(options.template)
    rows = []
    for fits in options.fits:
        label = options.label or fits.resolve().name
        for scan_id in options.scans or _fitted_scans(fits):
            job = Job(
                scan_id, _STAGE, options.results, fits / scan_id, settings, options.seed, options.template, options
            )
            row = _measured_row(job, template, label)
            log.info("%s %s: %s", label, scan_id, row.failure or "measured")
            rows.append(row)
    return rows


def measure_job(job: Job, template: "Template") -> "FitMeasures":
    """Measure one fitted scan."""
    from nphm_core.evaluation.head_regions import head_regions
    from nphm_core.evaluation.model_measures import measure_fit
    from nphm_core.io.meshes import read_mesh
    from nphm_core.supervision.throat import throat_plane
    from pipelines.stage_inputs import read_fit

    predicted = _fitted_mesh(job.out / "mesh.ply")
    registered = read_mesh(job.folder / "registered.ply", template_hash=template.hash)
    fit, T_canonical_metric = read_fit(job)
    throat = throat_plane(fit["vertices_mm"], template.faces, template.regions["neck"], template.regions["face"])
    margin_mm = job.settings.throat_margin_mm
    regions = head_regions(registered, template, throat, T_canonical_metric, throat_margin_mm=margin_mm)
    return measure_fit(predicted, _true_head(job), regions, job.settings, rng=job.rng)


def _measured_row(job: Job, template: "Template", label: str) -> ResultRow:
    subject, _, expression = job.scan_id.partition("/")
    labels = {"model": label, "subject": subject, "expression": expression}
    try:
        measures = measure_job(job, template)
    except NphmError as error:
        (job.out / "metrics.json").unlink(missing_ok=True)
        return ResultRow(labels, failure=str(error))
    facts = {
        "scan": job.scan_id,
        "failure": measures.failure,
        "settings": job.settings.model_dump(mode="json"),
        "seed": job.seed,
    }
    write_json(job.out / "metrics.json", facts | measures.to_json())
    return ResultRow(labels, measures.columns(), measures.failure)


def _fitted_mesh(path: Path) -> "Mesh":
    from nphm_core.evaluation.head_regions import MeasureError
    from nphm_core.io.meshes import read_facts, read_mesh

    mesh = read_mesh(path)
    facts = read_facts(path)
    if (facts.get("space"), facts.get("unit")) != ("metric", "mm"):
        raise MeasureError(
            f"the fitted mesh is in {facts.get('space')} space in {facts.get('unit')}; expected metric space in mm. "
            f"Fit the scan with `python -m pipelines.fit`.\nFile {path}"
        )
    return mesh


def _true_head(job: Job) -> "Mesh":
    """Give the scan in mm; of a cloud the surface that `watertight` put through its points, without fills."""
    from nphm_core.geometry.mesh import Mesh
    from nphm_core.io.meshes import read_facts, read_mesh
    from pipelines.stage_inputs import metric_mesh

    scan = metric_mesh(job)
    if scan.n_faces:
        return scan
    path = job.folder / "scan_closed.ply"
    closed = read_mesh(path)
    return Mesh(closed.vertices, closed.faces[: read_facts(path)["n_scan_faces"]])


def _fitted_scans(folder: Path) -> Sequence[str]:
    found = sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if path.is_dir())
    if not found:
        raise ConfigError(
            "the folder of fits holds no SUBJECT/EXPRESSION; expected what `python -m pipelines.fit` writes. "
            f"Fit some scans, or give --fits their folder. Folder {folder}"
        )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluate_model", description=__doc__)
    parser.add_argument("scans", nargs="*", metavar="SUBJECT/EXPRESSION", help="scans to measure; all fits if none")
    parser.add_argument("--results", required=True, type=Path, help="folder of the results, with the whole scans")
    parser.add_argument("--template", required=True, type=Path, help="folder of the template")
    parser.add_argument("--fits", required=True, nargs="+", type=Path, help="folders of fits, one for each model")
    parser.add_argument("--out", required=True, type=Path, help="TSV to write; averages go beside it as .md")
    parser.add_argument("--label", default="", help="the model's name in the table; the name of its folder")
    parser.add_argument("--settings", default="{}", help="JSON of the config's section `evaluate_model`")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    return parser


if __name__ == "__main__":
    sys.exit(main())
