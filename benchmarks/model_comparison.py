"""PCA, NPM and NPHM trained on the same synthetic people and fitted to the same partial views: one table.

    python -m benchmarks.model_comparison make  --work DIR --template T --second CARRIED.npz
    python -m benchmarks.model_comparison train --work DIR --model nphm --device cuda      (or npm, pca, pca-plain)
    python -m benchmarks.model_comparison fit   --work DIR --models pca npm nphm
    python -m benchmarks.model_comparison starts --work DIR --model nphm
    python -m benchmarks.model_comparison measure --work DIR      (may be repeated: measures what was fitted since)
    python -m benchmarks.model_comparison table --work DIR

People come from two linear head models in one topology. In the variant `full` they have relief, hair and local warps
that no linear model has seen; `plain` ones are bare heads of the linear models: the easy case for PCA. Half of the
test subjects are of either source. Each is observed once, in a random expression, by 2,500 points of one view with
normals estimated from the points, and noise of 0, 0.5 or 1.5 mm; pose and scale start from the truth and are fitted
along. Measured is the whole visible head. All of it is synthetic: heads of people are another matter.
"""

import argparse
import dataclasses
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np

from nphm_core.config import EvaluateModelConfig, FitConfig, TrainBaselinesConfig, TrainIdentityConfig, npm_identity
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_json, read_npz, write_json, write_npz, write_text
from nphm_core.seeds import rng_for
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.synthetic.corpus_folder import Corpus
from pipelines.train_corpus import add_training_options, stage_settings

NOISES_MM = (0.0, 0.5, 1.5)
N_TRAIN, N_TEST = 100, 20
_THROAT_MARGIN_MM = 5.0


def main() -> None:
    """Run one phase."""
    options = _parser().parse_args()
    started = time.perf_counter()
    {"make": make, "train": train, "fit": fit, "starts": starts, "measure": measure, "table": table}[options.phase](
        options
    )
    print(f"{options.phase}: {time.perf_counter() - started:.1f} s", flush=True)


# ---- people ----------------------------------------------------------------------------------------------------------


def make(options: argparse.Namespace) -> None:
    """Make both corpora: full people, and their plain twins, whose samples nobody needs."""
    from nphm_core.synthetic.carried_model import read_carried_model
    from nphm_core.synthetic.corpus import SAMPLES, corpus_members, corpus_source
    from nphm_core.synthetic.corpus_folder import make_corpus
    from nphm_core.template.template import read_template

    template = read_template(options.template)
    models = {"embedded": template.model, "second": read_carried_model(options.second, template)}
    sources = [corpus_source(name, template, model, levels=options.levels) for name, model in models.items()]
    members = corpus_members(list(models), options.n_train, options.n_test)
    few = SAMPLES.model_copy(update={"n_surface": 1000, "n_near": 1000, "n_far": 100})
    for variant, samples in (("full", SAMPLES), ("plain", few)):
        make_corpus(options.work / variant, sources, members, variant, samples=samples, n_processes=options.processes)


def observed_row(name: str, n_expressions: int) -> int:
    """Give the expression in which a test subject is seen."""
    return int(rng_for(0, "observed", name).integers(0, n_expressions))


# ---- training --------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> None:
    """Train one model and write its folder."""
    corpus = Corpus(options.work / ("plain" if options.model.endswith("-plain") else "full"))
    (_train_pca if options.model.startswith("pca") else _train_fields)(corpus, options)


def _train_fields(corpus: Corpus, options: argparse.Namespace) -> None:
    import torch

    from nphm_core.models.checkpoint import write_checkpoint
    from nphm_core.training.loop import Run
    from nphm_core.training.train_corpus import CorpusSettings, train_on_corpus

    device = torch.device(options.device)
    settings = CorpusSettings(*stage_settings(options))
    if options.model.startswith("npm"):
        settings = dataclasses.replace(settings, identity=_npm_settings(settings.identity))
    head = train_on_corpus(corpus, settings, device=device, run=Run(hooks=[_Printer()]), n_held_out=0)
    _report_memory(options.device)
    write_checkpoint(options.work / "models" / options.model, head)


def _npm_settings(settings: TrainIdentityConfig) -> TrainIdentityConfig:
    """Give NPM's, with a lower rate: a high one would spoil one network."""
    optimiser = settings.optimiser.model_copy(update={"learning_rate": 5e-4})
    return npm_identity(settings).model_copy(update={"optimiser": optimiser})


def _train_pca(corpus: Corpus, options: argparse.Namespace) -> None:
    from nphm_core.models.linear_head import write_linear_head
    from nphm_core.training.pca import ShapeTable, train_linear_head

    # With hair, unlike the registrations that a pipeline would give: PCA can then model hair as the others do.
    subjects = [corpus.subject(name) for name in corpus.train]
    neutrals = [s.surface(s.canonical).astype(np.float32) for s in subjects]
    others = [(s, k) for s in subjects for k in range(len(s.expressions)) if k != s.canonical]
    head = train_linear_head(
        ShapeTable.of_arrays(np.stack(neutrals)),
        ShapeTable.of_arrays(np.stack([s.skin[k] - s.skin[s.canonical] for s, k in others])),
        corpus.topology.faces,
        TrainBaselinesConfig(),
        subjects=tuple(s.name for s in subjects),
        scans=tuple(f"{s.name}/{s.expressions[k]}" for s, k in others),
        anchors=corpus.topology.anchors,
        visible=corpus.topology.visible,
        template_hash=corpus.topology.template_hash,
    )
    write_linear_head(options.work / "models" / options.model, head, {"data": f"{len(subjects)} subjects"})
    print(f"{head.n_identity} identity and {head.n_expression} expression components")


class _Printer:
    """Prints the log's lines."""

    def start(self, stage: str, step: int) -> None:
        """Begin."""

    def log(self, entry: Any) -> None:
        """Print a line."""
        terms = " ".join(f"{name} {value:.5f}" for name, value in entry.terms.items())
        print(f"{entry.stage} {entry.step}/{entry.n_steps} {entry.seconds:.0f} s {terms}", flush=True)

    def close(self) -> None:
        """End."""


def _report_memory(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        print(f"largest memory in use {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")


# ---- fits ------------------------------------------------------------------------------------------------------------


def fit(options: argparse.Namespace) -> None:
    """Fit every model to every observed test subject, and write the meshes in mm."""
    for model in options.models:
        # PCA trained on plain heads is for plain heads.
        variants = ["plain"] if model.endswith("-plain") else options.variants
        for variant in variants:
            corpus = Corpus(options.work / variant)
            with _pool(options.processes) as pool:
                jobs = [(corpus.folder, name, noise) for noise in options.noises for name in corpus.test]
                seen = pool.starmap(_observed, jobs, chunksize=1)
                if model.startswith("pca"):
                    pool.starmap(_fit_linear, [(options.work, model, variant, *job) for job in seen], chunksize=1)
                    continue
            for noise in options.noises:
                chosen = [(name, observation) for name, level, observation in seen if level == noise]
                for first in range(0, len(chosen), options.at_once):
                    _fit_fields(options, model, variant, noise, chosen[first : first + options.at_once])


def starts(options: argparse.Namespace) -> None:
    """Fit half of the test subjects from the true pose and from far away, the unit unknown, with 0.5 mm noise."""
    corpus, noise = Corpus(options.work / "full"), 0.5
    names = corpus.test[: len(corpus.test) // 2]
    with _pool(options.processes) as pool:
        seen = pool.starmap(_observed, [(corpus.folder, name, noise) for name in names], chunksize=1)
    for label, is_far in (("true-start", False), ("far-start", True)):
        chosen = [(name, _started(observation, name, is_far=is_far)) for name, _, observation in seen]
        for first in range(0, len(chosen), options.at_once):
            part = chosen[first : first + options.at_once]
            _fit_fields(options, options.model, "full", noise, part, label=f"{options.model}-{label}")


def _started(observation: Any, name: str, *, is_far: bool) -> Any:
    """Give the observation without its unit; far is 30 degrees, 50 mm and a factor of 1.3 away."""
    from scipy.spatial.transform import Rotation

    from nphm_core.spaces import Similarity

    rng = rng_for(0, "starts", name)
    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    turn = Rotation.from_rotvec(np.radians(30) * axis).as_matrix()
    far = Similarity(1.3 if rng.random() < 0.5 else 1 / 1.3, turn, 50 / MM_PER_CANONICAL_UNIT * direction)
    start = far if is_far else Similarity.identity()
    return dataclasses.replace(observation, T_canonical_observed=start, mm_per_unit=None)


def _pool(n_processes: int) -> Any:
    """Give worker processes; not forked from this one, which may use a GPU, but from one that has imported it all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["nphm_core.fitting.fit_linear", "nphm_core.evaluation.model_measures", "nphm_core.synthetic.corpus_folder"]
    )
    return context.Pool(n_processes, _one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _observed(folder: Path, name: str, noise_mm: float) -> tuple[str, float, Any]:
    from nphm_core.fitting.observations import Observation
    from nphm_core.spaces import Similarity

    corpus = Corpus(folder)
    subject = corpus.subject(name)
    row = observed_row(name, len(subject.expressions))
    view = subject.observation(row, corpus.topology, noise_mm=noise_mm)
    return (
        name,
        noise_mm,
        Observation(
            view.points, view.normals, T_canonical_observed=Similarity.identity(), mm_per_unit=MM_PER_CANONICAL_UNIT
        ),
    )


def _fit_fields(
    options: argparse.Namespace,
    model: str,
    variant: str,
    noise_mm: float,
    seen: list[tuple[str, Any]],
    label: str | None = None,
) -> None:
    import torch

    from nphm_core.fitting.fit import fit_heads
    from nphm_core.meshing.heads import posed_mesh
    from nphm_core.meshing.surface import Extraction
    from nphm_core.models.checkpoint import from_pretrained

    head = from_pretrained(options.work / "models" / model, device=options.device)
    started = time.perf_counter()
    settings = FitConfig()
    generator = torch.Generator().manual_seed(0)
    fits = fit_heads(head, [(observation,) for _, observation in seen], settings, generator=generator)
    fitted = time.perf_counter()
    how = Extraction(keep_largest=True)
    for (name, _), result in zip(seen, fits, strict=True):
        codes = [
            torch.as_tensor(code, dtype=torch.float32, device=options.device)
            for code in (result.identity_code, result.expression_codes[0])
        ]
        mesh = posed_mesh(head, *codes, options.resolution, how=how)
        _write_fit(options.work, label or model, variant, noise_mm, name, mesh, result)
    print(
        f"{label or model} {variant} {noise_mm} mm: {len(seen)} fits in {fitted - started:.1f} s, meshes "
        f"{time.perf_counter() - fitted:.1f} s, residual {np.median([f.residual_mm[0] for f in fits]):.3f} mm",
        flush=True,
    )


def _fit_linear(work: Path, model: str, variant: str, name: str, noise_mm: float, observation: Any) -> None:
    import torch

    from nphm_core.fitting.fit_linear import fit_linear_heads
    from nphm_core.models.checkpoint import from_pretrained

    head = from_pretrained(work / "models" / model)
    generator = torch.Generator().manual_seed(0)
    result = fit_linear_heads(head, [(observation,)], FitConfig(), generator=generator)[0]
    vertices = head.posed(result.identity_code, result.expression_codes[0])
    _write_fit(work, model, variant, noise_mm, name, Mesh(vertices, head.faces), result)


def _write_fit(work: Path, model: str, variant: str, noise_mm: float, name: str, mesh: Mesh, result: Any) -> None:
    vertices_mm = result.T_canonical_observed[0].inverse().apply(mesh.vertices) * MM_PER_CANONICAL_UNIT
    arrays = {"vertices": vertices_mm.astype(np.float32), "faces": mesh.faces.astype(np.int32)}
    write_npz(work / "fits" / model / variant / f"{noise_mm}" / f"{name}.npz", arrays, compress=False)


# ---- table -----------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> None:
    """Measure all fits that have not been measured; each result lies beside its fit."""
    paths = sorted((options.work / "fits").glob("*/*/*/*.npz"))
    missing = [path for path in paths if not path.with_suffix(".json").is_file()]
    with _pool(options.processes) as pool:
        pool.starmap(_measure, [(options.work, path) for path in missing], chunksize=1)


def table(options: argparse.Namespace) -> None:
    """Print a table for each variant."""
    from nphm_core.evaluation.result_table import ResultRow, failure_list, result_tsv, summary_markdown

    paths = sorted((options.work / "fits").glob("*/*/*/*.json"))
    rows = [ResultRow(**read_json(path)) for path in paths]
    write_text(options.work / "fits.tsv", result_tsv(rows))
    for variant in ("full", "plain"):
        chosen = [row for row in rows if row.labels["variant"] == variant]
        for statistic in ("mean", "median"):
            print(f"\n{variant} heads, {statistic}\n")
            print(summary_markdown(chosen, ["model", "noise_mm"], statistic=statistic))
        print(failure_list(chosen))


def _measure(work: Path, path: Path) -> None:
    write_json(path.with_suffix(".json"), dataclasses.asdict(_measured(work, path)))


def _measured(work: Path, path: Path) -> Any:
    from nphm_core.evaluation.head_regions import HeadRegions
    from nphm_core.evaluation.model_measures import measure_fit
    from nphm_core.evaluation.result_table import ResultRow
    from nphm_core.geometry.mesh import vertex_normals
    from nphm_core.spaces import Similarity
    from nphm_core.supervision.samples import Plane

    model, variant, noise, name = *path.parts[-4:-1], path.stem
    corpus = Corpus(work / variant)
    subject = corpus.subject(name)
    labels = {"model": model, "variant": variant, "noise_mm": noise, "subject": name, "source": subject.source}
    fitted = read_npz(path)
    row = observed_row(name, len(subject.expressions))
    skin = subject.skin[row].astype(np.float64) * MM_PER_CANONICAL_UNIT
    face, throat = corpus.topology.regions["face"], subject.throats[row]
    regions = HeadRegions(
        Plane(throat.origin * MM_PER_CANONICAL_UNIT + _THROAT_MARGIN_MM * throat.normal, throat.normal),
        skin[face],
        vertex_normals(skin, corpus.topology.faces)[face],
        Similarity(1 / MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3)),
    )
    predicted = Mesh(fitted["vertices"].astype(np.float64), fitted["faces"].astype(np.int64))
    truth = subject.scan_mm(row, corpus.topology)
    rng = rng_for(0, "model_comparison", f"{variant}/{name}")
    measures = measure_fit(predicted, truth, regions, EvaluateModelConfig(n_points=100_000), rng=rng)
    return ResultRow(labels, measures.columns(), measures.failure)


_PHASES = {"make": make, "train": train, "fit": fit, "starts": starts, "measure": measure, "table": table}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=tuple(_PHASES))
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--template", type=Path, help="folder of the embedded template")
    parser.add_argument("--second", type=Path, help="the second head model, carried into the template's topology")
    parser.add_argument(
        "--model",
        default="nphm",
        help="what to train: nphm, npm, pca, pca-plain; what follows such a name tells variants of settings apart",
    )
    parser.add_argument("--models", nargs="+", default=["pca", "pca-plain", "npm", "nphm"], help="what to fit")
    parser.add_argument("--n-train", type=int, default=N_TRAIN)
    parser.add_argument("--n-test", type=int, default=N_TEST)
    parser.add_argument("--variants", nargs="+", default=["full", "plain"], help="whom to fit")
    parser.add_argument("--noises", nargs="+", type=float, default=NOISES_MM, help="of the observed points, in mm")
    parser.add_argument("--at-once", type=int, default=N_TEST, help="subjects that are fitted together; 1 suits a CPU")
    parser.add_argument("--levels", type=int, default=2, help="subdivisions of the template")
    add_training_options(parser)
    parser.add_argument("--resolution", type=int, default=256, help="of the meshes")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    return parser


if __name__ == "__main__":
    main()
