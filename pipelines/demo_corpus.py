"""Make a corpus of synthetic people with known truth, to train and test head models on: meshes and samples.

    python -m pipelines.demo_corpus carry --template FOLDER --other FOLDER --out carried.npz
    python -m pipelines.demo_corpus make --template FOLDER --carried carried.npz --out corpus

`carry` brings a second head model, given by its own template's folder (`python -m pipelines.template`), into the first
template's topology: a few seconds, a few MB. `make` draws half of the people from each model; without --carried, all
from the template's own. The `full` variant has relief, hair and local warps that no linear model has; `plain` has none.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from nphm_core.errors import NphmError

log = logging.getLogger("pipelines.demo_corpus")


def main(arguments: list[str] | None = None) -> int:
    """Write the carried model or the corpus; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    started = time.monotonic()
    try:
        carry(options) if options.action == "carry" else make(options)
    except NphmError as error:
        log.error("%s", error)
        return 1
    log.info("took %.1f s", time.monotonic() - started)
    print(options.out)
    return 0


def carry(options: argparse.Namespace) -> None:
    """Write the second model in the template's topology."""
    from nphm_core.seeds import rng_for
    from nphm_core.synthetic.carried_model import carry_model, write_carried_model
    from nphm_core.template.template import read_template

    template, other = read_template(options.template), read_template(options.other)
    model = carry_model(template, other, rng=rng_for(options.seed, "carry", other.name))
    write_carried_model(options.out, model)


def make(options: argparse.Namespace) -> None:
    """Write the corpus."""
    from nphm_core.synthetic.carried_model import read_carried_model
    from nphm_core.synthetic.corpus import corpus_members, corpus_source
    from nphm_core.synthetic.corpus_folder import make_corpus
    from nphm_core.template.template import read_template

    template = read_template(options.template)
    models = [template.model]
    if options.carried:
        models.append(read_carried_model(options.carried, template))
    sources = [corpus_source(model.name, template, model, levels=options.levels) for model in models]
    members = corpus_members([source.name for source in sources], options.train, options.test)
    make_corpus(
        options.out,
        sources,
        members,
        options.variant,
        n_expressions=options.expressions,
        seed=options.seed,
        n_processes=options.processes,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.demo_corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    carrying = actions.add_parser("carry", help="bring a second head model into the template's topology")
    carrying.add_argument("--other", type=Path, required=True, help="folder of the second model's template")
    making = actions.add_parser("make", help="make the corpus")
    making.add_argument("--carried", type=Path, help="what `carry` wrote")
    making.add_argument("--variant", choices=("full", "plain"), default="full")
    making.add_argument("--train", type=int, default=100, help="subjects to train on (100)")
    making.add_argument("--test", type=int, default=20, help="subjects kept for tests (20)")
    making.add_argument("--expressions", type=int, default=8, help="expressions a subject, two neutrals included (8)")
    making.add_argument("--levels", type=int, default=2, help="times every triangle is cut in four (2)")
    making.add_argument("--processes", type=int, default=1, help="processes that work at once (1)")
    for action in (carrying, making):
        action.add_argument("--template", type=Path, required=True, help="folder of the template")
        action.add_argument("--out", type=Path, required=True, help="file or folder to write")
        action.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
