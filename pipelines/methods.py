"""Write the methods of a run as text for a paper, with settings, numbers and versions, and the references to cite."""

import argparse
import csv
import statistics
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nphm_core.io.files import write_text
from pipelines.stage_command import settings_json

_PACKAGES = ("nphm", "snakemake", "mediapipe", "numpy", "scipy", "libigl", "torch")
_REFERENCES = {
    "giebenhain2023nphm": """@inproceedings{giebenhain2023nphm,
  title = {Learning Neural Parametric Head Models},
  author = {Giebenhain, Simon and Kirschstein, Tobias and Georgopoulos, Markos and R{\\"u}nz, Martin and
            Agapito, Lourdes and Nie{\\ss}ner, Matthias},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2023}
}""",
    "sorkine2007arap": """@inproceedings{sorkine2007arap,
  title = {As-Rigid-As-Possible Surface Modeling},
  author = {Sorkine, Olga and Alexa, Marc},
  booktitle = {Symposium on Geometry Processing},
  year = {2007}
}""",
    "lugaresi2019mediapipe": """@article{lugaresi2019mediapipe,
  title = {{MediaPipe}: A Framework for Building Perception Pipelines},
  author = {Lugaresi, Camillo and others},
  journal = {arXiv:1906.08172},
  year = {2019}
}""",
    "moelder2021snakemake": """@article{moelder2021snakemake,
  title = {Sustainable data analysis with {Snakemake}},
  author = {M{\\"o}lder, Felix and others},
  journal = {F1000Research},
  volume = {10},
  number = {33},
  year = {2021}
}""",
    "li2017flame": """@article{li2017flame,
  title = {Learning a model of facial shape and expression from {4D} scans},
  author = {Li, Tianye and Bolkart, Timo and Black, Michael J. and Li, Hao and Romero, Javier},
  journal = {ACM Transactions on Graphics},
  volume = {36},
  number = {6},
  year = {2017}
}""",
}


def methods_text(rows: list[dict[str, str]], settings: dict[str, Any]) -> str:
    """Give the text; `rows` are those of summary.tsv."""
    return "\n\n".join(["# Methods", _registration(rows, settings), *_models(settings), _software()]) + "\n"


def references_text(text: str) -> str:
    """Give the BibTeX entries that a text cites."""
    return "\n\n".join(entry for key, entry in _REFERENCES.items() if f"@{key}" in text) + "\n"


def _registration(rows: list[dict[str, str]], settings: dict[str, Any]) -> str:
    verdicts = Counter(row["verdict"] for row in rows)
    subjects = {row["scan"].split("/")[0] for row in rows if row["verdict"] != "excluded"}
    n = len(rows) - verdicts["excluded"]
    counts = (
        f"{verdicts['ok']} passed all checks, {verdicts['suspicious']} were flagged and {verdicts['failed']} failed"
    )
    source = settings["template"]["source"]
    model = "an open linear head model" if source == "embedded" else f"the head model {Path(source).stem}"
    cite = " [@li2017flame]" if "flame" in source.lower() else ""
    levels, fit, arap = settings["subdivide"]["levels"], settings["flame_fit"], settings["arap"]
    return (
        f"{n} scans of {len(subjects)} subjects were processed ({verdicts['excluded']} others excluded): {counts}. "
        "Faces were found and landmarks detected in renderings from several views [@lugaresi2019mediapipe] and lifted "
        f"to the surface. The linear components of {model}{cite} (at most {fit['n_identity']} for identity, "
        f"{fit['n_expression']} for expression), joint rotations and pose were fitted to landmarks and surface in "
        f"{fit['n_iterations']} Levenberg-Marquardt iterations; its triangles were subdivided {levels} times, and all "
        "vertices registered to the scan by an as-rigid-as-possible deformation [@sorkine2007arap], its stiffness "
        f"falling from {arap['stiffness_start']:g} to {arap['stiffness_end']:g}. {_distances(rows)}"
    )


def _distances(rows: list[dict[str, str]]) -> str:
    medians = [float(row["median_mm"]) for row in rows if row["verdict"] != "excluded" and row["median_mm"]]
    if not medians:
        return "No scan has a registration."
    p95 = [float(row["p95_mm"]) for row in rows if row["verdict"] != "excluded" and row["p95_mm"]]
    return (
        f"On the face, the median distance from registration to scan was {statistics.median(medians):.3f} mm "
        f"(median over {len(medians)} scans; 95th percentile {statistics.median(p95):.3f} mm)."
    )


def _models(settings: dict[str, Any]) -> list[str]:
    held_out = settings["held_out"]
    tested = f" The subjects {', '.join(held_out)} were held out and fitted." if held_out else ""
    names = ", ".join(name.upper() for name in settings["models"])
    text = (
        f"Models (where they were trained: {names}; NPM and PCA are baselines) follow NPHM [@giebenhain2023nphm]: an "
        "ensemble of local signed distance fields for identity and a deformation field for expression, trained for "
        f"{settings['train_identity']['n_steps']:,} and {settings['train_expression']['n_steps']:,} steps with the "
        f"{settings['canonical']} neutral as canonical expression (seed {settings['seed']}).{tested}"
    )
    return [text]


def _software() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    python = ".".join(map(str, sys.version_info[:3]))
    return f"The workflow was run by Snakemake [@moelder2021snakemake]. Versions: Python {python}, {', '.join(found)}."


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.methods", description=__doc__)
    parser.add_argument("--summary", required=True, type=Path, help="the table of all scans")
    parser.add_argument("--settings", required=True, help="JSON of the whole config")
    parser.add_argument("--out", required=True, type=Path, help="Markdown to write; references beside it as .bib")
    options = parser.parse_args()
    with options.summary.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    text = methods_text(rows, settings_json(options.settings))
    write_text(options.out, text)
    write_text(options.out.with_suffix(".bib"), references_text(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
