"""Export registered scans or a trained model in a format that others take in.

From a run (--results): `nphm`, the NPHM data-set layout (canonical units); `flame`, meshes in FLAME's frame in metres
and parameters, for a head model with FLAME's joints; `ply` and `obj`, a mesh a scan; `glb`, a head a subject in metres,
with its expressions and the head model's blendshapes as named morph targets; `landmarks`, 68 (or the inner 51) and
NoW's 7 as arrays; `svfr`, the folder of NeRSemble's single-view benchmark. From a model (--model, by default the one
that comes along): `glb`, `ply`, `obj` and `landmarks`, in the template's topology and canonical frame. Beside the files
lies export.json, which says where they come from, in which space and unit they are, and under which licence the
template is.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from nphm_core.errors import ExportError, NphmError
from nphm_core.models.pretrained import pretrained_folder

log = logging.getLogger("nphm")

FORMATS = ("nphm", "flame", "ply", "obj", "glb", "landmarks", "svfr")
MODEL_FORMATS = ("ply", "obj", "glb", "landmarks")
_UNITS = ("mm", "cm", "m", "um", "in", "canonical")
_FIXED_UNIT = {"nphm": "canonical", "flame": "m", "glb": "m", "svfr": "m"}
"""Formats whose unit is part of what they are."""


def main(arguments: list[str] | None = None) -> int:
    """Write the files and print where they lie; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        facts = export(options)
    except NphmError as error:
        log.error("%s", error)
        return 1
    print(f"{facts['n_files']} files in {options.out}: {facts['format']}, {facts['unit']}, from {facts['what']}")
    return 0


def export(options: argparse.Namespace) -> dict[str, Any]:
    """Write what the options ask for and give the facts that lie beside it."""
    _check(options)
    if options.results is None:
        from pipelines.export_model import export_model

        facts = export_model(options)
    else:
        from pipelines.export_results import export_results

        facts = export_results(options)
    from nphm_core.io.files import write_json

    n_files = sum(path.is_file() for path in options.out.rglob("*"))
    facts |= {"n_files": n_files, "unit": options.unit, "made_by": "python -m pipelines.export"}
    write_json(options.out / "export.json", facts)
    return facts


def _check(options: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is read."""
    options.model = options.model or pretrained_folder()
    if options.results is None and options.format not in MODEL_FORMATS:
        raise ExportError(
            f"a model has no {options.format}; expected one of {', '.join(MODEL_FORMATS)}. Give --results for others"
        )
    fixed = _FIXED_UNIT.get(options.format)
    if fixed is not None and options.unit not in (None, fixed):
        raise ExportError(
            f"the format {options.format} is in {_spelt(fixed)} by its definition; expected no other --unit than "
            f"{fixed}. Leave the option out, or export ply or obj. Got {options.unit}"
        )
    options.unit = fixed or options.unit or "mm"
    if options.out.exists() and not options.out.is_dir():
        raise ExportError(f"--out is a file; expected a folder to write. Name another one. File {options.out}")
    if options.out.is_dir() and any(options.out.iterdir()) and not options.force:
        raise ExportError(
            "the folder is not empty; expected a new or an empty one, so that exports do not mix. Name another folder, "
            f"or pass --force to write into it. Folder {options.out}"
        )


def _spelt(unit: str) -> str:
    return {"m": "metres", "canonical": "canonical units of 250 mm"}[unit]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.export", description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--results", type=Path, metavar="FOLDER", help="results of a run")
    source.add_argument("--model", type=Path, metavar="FOLDER", help="a trained model, by default ours")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write, see above")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--subjects", nargs="+", default=[], metavar="SUBJECT", help="only these subjects")
    parser.add_argument("--scans", nargs="+", default=[], metavar="SUBJECT/EXPRESSION", help="only these scans")
    parser.add_argument("--unit", choices=_UNITS, help="of ply, obj and landmarks; mm by default")
    parser.add_argument(
        "--space",
        choices=("metric", "canonical"),
        default="metric",
        help="ply, obj, landmarks: the scan's frame or ours",
    )
    parser.add_argument(
        "--topology", choices=("registered", "template"), help="of ply, obj (registered) and glb (template by default)"
    )
    parser.add_argument(
        "--targets",
        choices=("all", "captured", "blendshapes"),
        default="all",
        help="of glb: scans' or the head model's",
    )
    parser.add_argument("--with-samples", action="store_true", help="nphm: training samples too, 48 MB a scan")
    parser.add_argument("--keys", type=Path, metavar="TSV", help="svfr: subject, expression, participant, image_key")
    parser.add_argument("--codes", nargs="+", type=Path, default=[], metavar="FILE", help="model: codes of a fit")
    parser.add_argument("--expressions", nargs="+", default=[], metavar="NAME", help="model: training scans to show")
    parser.add_argument("--template", type=Path, metavar="FOLDER", help="template; found in the cache by default")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="FOLDER", help="where templates lie")
    parser.add_argument("--seed", type=int, default=0, help="of --with-samples")
    parser.add_argument("--device", default="cpu", help="model: cpu or cuda")
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    return parser


if __name__ == "__main__":
    sys.exit(main())
