"""Fit a trained head model to scans: mesh, codes and pose of each, and a picture of how well it fits.

    python -m pipelines.fit scan.ply [scan2.ply ...] --out DIR [--model DIR]

The face is found in every scan first, so nothing has to be aligned by hand; where there is none, as in a small part of
a head, the pose is searched for with the mean head. Scans of one call are expressions of one subject and share its
identity, unless --subjects separate. With --results, scans are named SUBJECT/EXPRESSION and what the workflow has
written for them is used. Each scan's folder below --out gets fit.json, codes.safetensors, mesh.ply (mm, in the scan's
own frame), fit.png and, with --template, template_mesh.ply (template topology) with landmarks in its JSON.
"""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nphm_core.config import FitConfig, TemplateConfig, read_section
from nphm_core.errors import ConfigError, FittingError, NphmError
from nphm_core.models.pretrained import pretrained_folder
from nphm_core.spaces import MM_PER_UNIT
from pipelines.stage_command import settings_json
from pipelines.template import cached_template

if TYPE_CHECKING:
    from pipelines.fit_inputs import FitInput

log = logging.getLogger("nphm")

_UNITS = (*MM_PER_UNIT, "auto", "arbitrary")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    started = time.perf_counter()
    try:
        settings: FitConfig = read_section(FitConfig, settings_json(options.settings), "fit")
        if options.results is not None and options.align != "faces":
            raise ConfigError(
                "--align is for scan files; with --results the artifacts of the run are used. Leave it out"
            )
        if options.results is None and options.align == "faces" and options.template is None:
            options.template = cached_template(options.cache, TemplateConfig())
        with tempfile.TemporaryDirectory() as folder:
            scans, failed = _read_scans(options, Path(folder))
            n_fitted = fit_scans(scans, failed, options, settings)
    except NphmError as error:
        log.error("%s", error)
        return 1
    log.info("%d scans in %.1f s", n_fitted, time.perf_counter() - started)
    print(options.out)
    return 0


def fit_scans(scans: "list[FitInput]", failed: dict[str, str], options: argparse.Namespace, settings: FitConfig) -> int:
    """Fit scans, write what came of it and give their number; the file that says that all is complete comes last.

    With --results a scan that cannot be fitted has that as its verdict, as in any stage; of scan files it is an error.
    """
    from nphm_core.io.files import write_json
    from pipelines.fit_outputs import fitted_heads, usable_scans, write_fit

    usable, also = usable_scans(scans)
    failed = failed | also
    if failed and options.results is None:
        raise FittingError("; ".join(f"{reason}\nScan {scan_id}" for scan_id, reason in failed.items()))
    for scan_id, reason in failed.items():
        log.error("%s: %s", scan_id, reason)
    for scan in usable:
        for warning in scan.warnings:
            log.warning("%s: %s", scan.scan_id, warning)
    written: list[dict[str, Any]] = []
    (options.out / "fit.json").unlink(missing_ok=True)
    template = _template(options)
    heads = fitted_heads(usable, options.model, options.device, settings, options.seed, template) if usable else []
    for fitted in heads:
        # One subject's scans lie side by side, as the rule `fit` wants them.
        name = fitted.scan.scan_id if options.subjects == "separate" else fitted.scan.scan_id.split("/")[1]
        facts = write_fit(options.out / name, fitted, settings, template, options.picture_px)
        log.info("%s: %.3f mm from the fitted head (median)", fitted.scan.scan_id, facts["residual_mm"])
        written.append({"folder": name} | facts)
    facts = {"scans": written, "failed": failed, "settings": settings.model_dump(mode="json")}
    write_json(options.out / "fit.json", facts)
    return len(written)


def _read_scans(options: argparse.Namespace, folder: Path) -> "tuple[list[FitInput], dict[str, str]]":
    from pipelines.fit_inputs import read_files, read_results, run_front_end

    separate = options.subjects == "separate"
    if options.results is not None:
        subjects = {scan_id.split("/")[0] for scan_id in options.scans}
        if len(subjects) > 1 and not separate:
            raise FittingError(
                f"the scans are of {len(subjects)} subjects; expected one: all scans of a call share an identity. Give "
                "--subjects separate, or call the command once for each"
            )
        return read_results(options.results, options.template, options.scans)
    paths = [Path(scan) for scan in options.scans]
    if options.align == "faces":
        results = options.front_end or folder
        return run_front_end(paths, results, options.template, options.unit, options.seed, separate=separate), {}
    return read_files(paths, options.unit, separate=separate, is_upright=options.align == "given"), {}


def _template(options: argparse.Namespace) -> Any:
    if options.template is None:
        return None
    from nphm_core.template.template import read_template

    return read_template(options.template)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", nargs="+", metavar="SCAN", help="scan files; with --results SUBJECT/EXPRESSION")
    parser.add_argument(
        "--model",
        type=Path,
        default=pretrained_folder(),
        help="folder of a trained model, by default ours",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--template", type=Path, help="folder of the model's template; by default the embedded one, built once"
    )
    parser.add_argument("--cache", default=".cache", help="where the embedded template is kept")
    parser.add_argument("--results", type=Path, help="folder of a run: use what it has of the scans")
    parser.add_argument("--unit", default="auto", choices=_UNITS, help="unit of the files (auto: found with the face)")
    parser.add_argument(
        "--align",
        default="faces",
        choices=("faces", "given", "none"),
        help="faces: find the face (default); given: the files are upright, face along +z; none: search all poses",
    )
    parser.add_argument(
        "--subjects", default="one", choices=("one", "separate"), help="whether all scans are of one subject (default)"
    )
    parser.add_argument("--settings", default="{}", help="JSON of the config's section `fit`")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one")
    parser.add_argument("--front-end", type=Path, help="keep the stages' artifacts of scan files in this folder")
    parser.add_argument("--picture-px", type=int, default=420, help="height of the picture's tiles; 0 draws none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
