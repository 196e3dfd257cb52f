"""A corpus on disk: one folder, two files a subject, made by many processes and read a subject at a time.

`corpus.json` says who belongs to it and is written last; `topology.npz` is shared. Of each subject there are the
meshes (6 bytes a vertex and expression, off by micrometres) and the samples, in the format of the stage sample_sdf.
Seven MB a subject with eight expressions on 73 thousand vertices.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from nphm_core.config import SampleSdfConfig
from nphm_core.io.files import (
    DamagedFileError,
    read_json,
    read_npz,
    read_safetensors,
    write_json,
    write_npz,
    write_safetensors,
)
from nphm_core.supervision.quantise import Box, decode_positions, encode_positions
from nphm_core.supervision.sample_file import SdfSampleReader, write_sdf_samples
from nphm_core.supervision.samples import DistanceSamples, Plane, SdfSamples, SurfaceSamples
from nphm_core.synthetic.corpus import (
    SAMPLES,
    CorpusMember,
    CorpusSource,
    CorpusSubject,
    CorpusTopology,
    make_subject,
)
from nphm_core.synthetic.person import Variant

log = logging.getLogger(__name__)

_KIND, _FORMAT = "nphm-corpus-subject", 1


class Corpus:
    """A folder that `make_corpus` has written."""

    def __init__(self, folder: Path) -> None:
        """Read who belongs to it and the topology; DamagedFileError if the folder is not complete."""
        self.folder = Path(folder)
        self.facts = read_json(self.folder / "corpus.json")
        self.members = tuple(CorpusMember(**member) for member in self.facts["members"])
        self.topology = _read_topology(self.folder / "topology.npz")

    @property
    def train(self) -> tuple[str, ...]:
        """Names of the subjects to train on."""
        return tuple(member.name for member in self.members if not member.is_test)

    @property
    def test(self) -> tuple[str, ...]:
        """Names of the subjects kept for tests."""
        return tuple(member.name for member in self.members if member.is_test)

    def samples_path(self, name: str) -> Path:
        """Give the file of a subject's samples, which `IdentitySamples.from_files` reads."""
        return self.folder / f"{name}-sdf.safetensors"

    def subject(self, name: str, *, with_samples: bool = False) -> CorpusSubject:
        """Read one subject."""
        subject = read_subject(self.folder / f"{name}.safetensors")
        return replace(subject, samples=_read_samples(self.samples_path(name))) if with_samples else subject


def make_corpus(
    folder: Path,
    sources: Sequence[CorpusSource],
    members: Sequence[CorpusMember],
    variant: Variant,
    *,
    n_expressions: int = 8,
    samples: SampleSdfConfig = SAMPLES,
    seed: int = 0,
    n_processes: int = 1,
) -> Corpus:
    """Make all subjects of a corpus, in several processes; subjects whose files are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "seed": seed,
        "variant": variant,
        "n_expressions": n_expressions,
        "samples": samples.model_dump(mode="json"),
        "template_hash": sources[0].topology.template_hash,
        "levels": sources[0].topology.levels,
    }
    _write_topology(folder / "topology.npz", sources[0].topology)
    maker = _Maker(folder, {source.name: source for source in sources}, variant, n_expressions, samples, seed)
    missing = [member for member in members if not (folder / f"{member.name}.safetensors").is_file()]
    for k, name in enumerate(_run(maker, missing, n_processes)):
        log.info("%s (%d of %d)", name, k + 1, len(missing))
    write_json(folder / "corpus.json", facts | {"members": [asdict(member) for member in members]})
    return Corpus(folder)


@dataclass(frozen=True)
class _Maker:
    folder: Path
    sources: dict[str, CorpusSource]
    variant: Variant
    n_expressions: int
    samples: SampleSdfConfig
    seed: int

    def make(self, member: CorpusMember) -> str:
        source, name = self.sources[member.source], member.name
        subject = make_subject(
            source, name, self.variant, n_expressions=self.n_expressions, samples=self.samples, seed=self.seed
        )
        if subject.samples is not None:
            facts = {"subject": name, "template_hash": source.topology.template_hash}
            write_sdf_samples(self.folder / f"{name}-sdf.safetensors", subject.samples, facts)
        write_subject(self.folder / f"{name}.safetensors", subject)
        return name


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

# Of a worker process: sent once when it starts, as a source takes longer to send than a subject to make.
_makers: list[_Maker] = []


def _run(maker: _Maker, members: Sequence[CorpusMember], n_processes: int) -> Iterator[str]:
    if n_processes == 1 or len(members) < 2:
        yield from map(maker.make, members)
        return
    import multiprocessing

    # Not forked from the caller, which may have threads or a GPU, but from a process that has imported everything:
    # workers start one after the other, and each import would take ten seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    n = min(n_processes, len(members))
    with _one_thread_each(), context.Pool(n, _start, (maker,)) as pool:
        yield from pool.imap_unordered(_make, members)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start now have one thread: sixteen of sixteen threads each took three times as long."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start(maker: _Maker) -> None:
    _makers.append(maker)


def _make(member: CorpusMember) -> str:
    return _makers[0].make(member)


def write_subject(path: Path, subject: CorpusSubject) -> None:
    """Write a subject without its samples."""
    flat = subject.skin.reshape(-1, 3).astype(np.float64)
    box = Box.around(flat)
    arrays = {
        "skin": encode_positions(flat, box).reshape(subject.skin.shape),
        "hair": subject.hair.astype(np.float16),
        "anchors": subject.anchors.astype(np.float32),
        "throats": np.stack([np.stack([p.origin, p.normal]) for p in subject.throats]).astype(np.float32),
    }
    facts = {
        "kind": _KIND,
        "format": _FORMAT,
        "space": "canonical",
        "box": box.to_json(),
        "name": subject.name,
        "source": subject.source,
        "variant": subject.variant,
        "expressions": list(subject.expressions),
    }
    write_safetensors(path, arrays, facts)


def read_subject(path: Path) -> CorpusSubject:
    """Read what `write_subject` wrote; its samples are None."""
    arrays, facts = read_safetensors(path)
    if (facts.get("kind"), facts.get("format")) != (_KIND, _FORMAT):
        raise DamagedFileError(
            f"the file is {facts.get('kind')} {facts.get('format')}; expected {_KIND} {_FORMAT}. "
            f"Delete the corpus and make it again. File {path}"
        )
    skin = decode_positions(arrays["skin"].reshape(-1, 3), Box.from_json(facts["box"]))
    return CorpusSubject(
        name=facts["name"],
        source=facts["source"],
        variant=facts["variant"],
        expressions=tuple(facts["expressions"]),
        skin=skin.reshape(arrays["skin"].shape).astype(np.float32),
        hair=arrays["hair"].astype(np.float32),
        anchors=arrays["anchors"].astype(np.float64),
        throats=tuple(Plane(*plane) for plane in arrays["throats"].astype(np.float64)),
        samples=None,
    )


def _read_samples(path: Path) -> SdfSamples:
    reader = SdfSampleReader(path)
    return SdfSamples(
        _read_surface(reader, "face"),
        _read_surface(reader, "rest"),
        _read_distances(reader, "near"),
        _read_distances(reader, "far"),
    )


def _read_surface(reader: SdfSampleReader, group: str) -> SurfaceSamples:
    n = reader.count(group)
    return SurfaceSamples(*(reader.surface(group, 0, n) if n else (np.zeros((0, 3)), np.zeros((0, 3)))))


def _read_distances(reader: SdfSampleReader, group: str) -> DistanceSamples:
    n = reader.count(group)
    none = (np.zeros((0, 3)), np.zeros(0), np.zeros(0, bool))
    return DistanceSamples(*(reader.distances(group, 0, n) if n else none))


def _write_topology(path: Path, topology: CorpusTopology) -> None:
    arrays = {f"region.{name}": mask for name, mask in topology.regions.items()}
    arrays |= {"faces": topology.faces, "anchors": topology.anchors, "template_hash": np.array(topology.template_hash)}
    arrays |= {"n_template_vertices": np.array(topology.n_template_vertices), "levels": np.array(topology.levels)}
    write_npz(path, arrays)


def _read_topology(path: Path) -> CorpusTopology:
    arrays = read_npz(path)
    return CorpusTopology(
        faces=arrays["faces"],
        regions={key[7:]: mask for key, mask in arrays.items() if key.startswith("region.")},
        anchors=arrays["anchors"],
        n_template_vertices=int(arrays["n_template_vertices"]),
        template_hash=str(arrays["template_hash"]),
        levels=int(arrays["levels"]),
    )
