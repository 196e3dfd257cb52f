"""Identity samples where training draws them: coded as they are stored, on the device, decoded for the rows of a step.

A subject takes 9 bytes a sample. What does not fit into the memory allowed stays in the mapped files, of which a step
reads one block a subject and group: rows lie in random order there, so that a block is a random draw. Subjects without
any sample of a group are told apart by a mask. Positions, distances and anchors are in canonical units.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int16
from numpy import ndarray
from torch import Tensor

from nphm_core.config import TrainIdentityConfig
from nphm_core.errors import TrainingError
from nphm_core.supervision.quantise import Box, encode_normals, encode_positions, encode_sdf, sdf_step
from nphm_core.supervision.sample_file import SDF_KIND, MappedFile
from nphm_core.supervision.samples import DistanceSamples, SdfSamples, SurfaceSamples
from nphm_core.training.coded_meshes import decode_octahedron
from nphm_core.training.draws import BatchOrder, Part, uniform

log = logging.getLogger(__name__)

GROUPS = ("face", "rest", "near", "far")
"""Groups of samples in the order of a batch's columns."""

_SURFACE = GROUPS[:2]
_BYTES_A_ROW = 9
_NORMAL_STEPS = 127.0
# Unsigned codes are kept as signed ones, which every device can index, moved by half the range.
_HALF_RANGE = 32768


@dataclass(frozen=True)
class GroupSizes:
    """Samples that a step draws of each group, a subject."""

    face: int
    rest: int
    near: int
    far: int

    @classmethod
    def of(cls, settings: TrainIdentityConfig) -> "GroupSizes":
        """Read them from the settings."""
        return cls(settings.n_face, settings.n_rest, settings.n_near, settings.n_far)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """All four, in the order of GROUPS."""
        return self.face, self.rest, self.near, self.far

    @property
    def surface(self) -> int:
        """Columns with a normal; they come first."""
        return self.face + self.rest


@dataclass(frozen=True)
class IdentityBatch:
    """Samples of some subjects; columns are those of the face, the rest, near and far, one after the other."""

    subject: Int[Tensor, " n_subjects"]
    """Row of each subject in the codebook."""
    points: Float[Tensor, "n_subjects n_points 3"]
    normals: Float[Tensor, "n_subjects n_surface 3"]
    """Unit, outward, of the columns on the surface."""
    sdf: Float[Tensor, "n_subjects n_off_surface"]
    """Stored signed distance of the other columns."""
    trusted: Bool[Tensor, "n_subjects n_off_surface"]
    present: Bool[Tensor, "n_subjects n_points"]
    """False where the subject has no sample of the column's group; what stands there is to be ignored."""
    anchors: Float[Tensor, "n_subjects 39 3"]
    sizes: GroupSizes


@dataclass(frozen=True)
class CodedSubject:
    """All samples of one subject, coded: three positions and a normal or a distance a row."""

    rows: Int16[ndarray, "n 4"]
    trusted: Bool[ndarray, " n"]
    counts: tuple[int, ...]
    """Rows of each of GROUPS, which lie one after the other."""
    box: Box
    sdf_step: tuple[float, float]
    """Of near and far distances."""

    @classmethod
    def from_samples(cls, samples: SdfSamples) -> "CodedSubject":
        """Code samples that were never written to a file."""
        groups = [getattr(samples, name) for name in GROUPS]
        box = Box.around(*(group.position for group in groups))
        steps = (sdf_step(samples.near.sdf), sdf_step(samples.far.sdf))
        rows, trusted = [], []
        for name, group in zip(GROUPS, groups, strict=True):
            step = steps[0] if name == "near" else steps[1]
            rows.append(_coded(encode_positions(group.position, box), _attribute(group, step)))
            trusted.append(_trust(group))
        counts = tuple(len(part) for part in rows)
        return cls(np.concatenate(rows), np.concatenate(trusted), counts, box, steps)

    @classmethod
    def from_file(cls, file: MappedFile) -> "CodedSubject":
        """Read all rows of a file."""
        blocks = [_read_block(file, name, 0, len(file[f"{name}.position"])) for name in GROUPS]
        rows, trusted = (np.concatenate([block[k] for block in blocks]) for k in (0, 1))
        steps = file.facts["sdf_step"]
        counts = tuple(len(block[0]) for block in blocks)
        return cls(rows, trusted, counts, Box.from_json(file.facts["box"]), (steps["near"], steps["far"]))


class IdentitySamples:
    """Samples of all subjects, drawn on one device."""

    def __init__(
        self,
        subjects: Sequence[str],
        anchors: Float[ndarray, "n_subjects 39 3"],
        counts: Int[ndarray, "n_subjects 4"],
        boxes: Sequence[Box],
        sdf_steps: Float[ndarray, "n_subjects 2"],
        store: "_ResidentRows | _MappedRows",
        device: torch.device,
    ) -> None:
        """Use `from_arrays` or `from_files`."""
        if not len(subjects):
            raise _nothing()
        self.subjects, self.device = tuple(subjects), device
        self._store = store
        put = lambda array: torch.as_tensor(np.asarray(array), dtype=torch.float32, device=device)  # noqa: E731
        self._anchors = put(anchors)
        self._low = put(np.stack([box.low + _HALF_RANGE * box.step for box in boxes]))
        self._step = put(np.stack([box.step for box in boxes]))
        self._sdf_step = put(sdf_steps)
        starts = np.concatenate([[0], np.cumsum(counts.ravel())[:-1]]).reshape(counts.shape)
        self._counts, self._starts = (torch.as_tensor(a, dtype=torch.int64, device=device) for a in (counts, starts))
        self._columns: dict[GroupSizes, Tensor] = {}

    @classmethod
    def from_arrays(
        cls,
        subjects: Sequence[str],
        samples: Sequence[SdfSamples],
        anchors: Float[ndarray, "n_subjects 39 3"],
        *,
        device: torch.device,
    ) -> "IdentitySamples":
        """Hold samples that lie in memory."""
        return cls._resident(subjects, [CodedSubject.from_samples(s) for s in samples], anchors, device)

    @classmethod
    def from_files(
        cls,
        subjects: Sequence[str],
        paths: Sequence[Path],
        anchors: Float[ndarray, "n_subjects 39 3"],
        *,
        device: torch.device,
        max_megabytes: float = 8000.0,
    ) -> "IdentitySamples":
        """Hold the samples of files on the device, or leave them in the files if they take more than the limit."""
        files = [MappedFile(path, SDF_KIND) for path in paths]
        n_rows = sum(len(file[f"{name}.position"]) for file in files for name in GROUPS)
        if n_rows * _BYTES_A_ROW <= max_megabytes * 1e6:
            return cls._resident(subjects, [CodedSubject.from_file(file) for file in files], anchors, device)
        log.info("the samples take %.0f MB: they are read from their files in every step", n_rows * _BYTES_A_ROW / 1e6)
        counts = np.array([[len(file[f"{name}.position"]) for name in GROUPS] for file in files], np.int64)
        boxes = [Box.from_json(file.facts["box"]) for file in files]
        steps = np.array([[file.facts["sdf_step"][name] for name in ("near", "far")] for file in files])
        return cls(subjects, anchors, counts, boxes, steps, _MappedRows(files), device)

    @classmethod
    def _resident(cls, subjects, coded: list[CodedSubject], anchors, device: torch.device) -> "IdentitySamples":
        if not coded:
            raise _nothing()
        rows = torch.from_numpy(np.concatenate([c.rows for c in coded])).to(device)
        trusted = torch.from_numpy(np.concatenate([c.trusted for c in coded])).to(device)
        counts = np.array([c.counts for c in coded], np.int64)
        steps = np.array([c.sdf_step for c in coded])
        boxes = [c.box for c in coded]
        return cls(subjects, anchors, counts, boxes, steps, _ResidentRows(rows, trusted), device)

    @property
    def mean_anchors(self) -> Float[Tensor, "39 3"]:
        """Give the mean of all subjects' anchors."""
        return self._anchors.mean(dim=0)

    @property
    def is_resident(self) -> bool:
        """Whether all samples lie on the device."""
        return isinstance(self._store, _ResidentRows)

    def draw(
        self, order: BatchOrder, step: int, sizes: GroupSizes, part: Part, *, generator: torch.Generator
    ) -> IdentityBatch:
        """Draw the samples of a step's part, with replacement; the generator is the step's."""
        subject = part(order.at(step))
        column = self._column_groups(sizes)
        count = self._counts[subject][:, column]
        present = count > 0
        if isinstance(self._store, _ResidentRows):
            fraction = uniform((len(column),), part, generator)
            place = torch.minimum((fraction * count).long(), (count - 1).clamp_min(0))
            rows, trusted = self._store.at(self._starts[subject][:, column] + place)
        else:
            subjects = part(order.on_cpu(step)).tolist()
            coded = self._store.blocks(subjects, sizes, seed=generator.initial_seed(), first=part.start)
            rows, trusted = (block.to(self.device, non_blocking=True) for block in coded)
        return self._decode(subject, rows, trusted, present, sizes)

    def _decode(
        self, subject: Tensor, rows: Tensor, trusted: Tensor, present: Tensor, sizes: GroupSizes
    ) -> IdentityBatch:
        points = torch.addcmul(self._low[subject][:, None], rows[..., :3].float(), self._step[subject][:, None])
        n = sizes.surface
        off_surface = self._column_groups(sizes)[n:] - len(_SURFACE)
        sdf = rows[:, n:, 3].float() * self._sdf_step[subject][:, off_surface]
        return IdentityBatch(
            subject=subject,
            points=points,
            normals=_decode_normals(rows[:, :n, 3]),
            sdf=sdf,
            trusted=trusted[:, n:] & present[:, n:],
            present=present,
            anchors=self._anchors[subject],
            sizes=sizes,
        )

    def _column_groups(self, sizes: GroupSizes) -> Int[Tensor, " n_points"]:
        if sizes not in self._columns:
            groups = np.repeat(np.arange(len(GROUPS)), sizes.counts)
            self._columns[sizes] = torch.as_tensor(groups, device=self.device)
        return self._columns[sizes]


class _ResidentRows:
    """All rows of all subjects in one tensor."""

    def __init__(self, rows: Tensor, trusted: Tensor) -> None:
        if not len(rows):
            raise _nothing()
        self._rows, self._trusted = rows, trusted

    def at(self, index: Int[Tensor, "n_subjects n_points"]) -> tuple[Tensor, Tensor]:
        # A group without rows at the very end would point beyond it.
        index = index.clamp_max(len(self._rows) - 1)
        return self._rows[index], self._trusted[index]


class _MappedRows:
    """Rows in files."""

    def __init__(self, files: list[MappedFile]) -> None:
        self._files = files

    def blocks(
        self, subjects: list[int], sizes: GroupSizes, *, seed: int, first: int
    ) -> tuple[Int16[Tensor, "n_subjects n_points 4"], Bool[Tensor, "n_subjects n_points"]]:
        """Read a block of each group; `first` is the place of the first subject in the whole batch."""
        n = sum(sizes.counts)
        rows, trusted = np.zeros((len(subjects), n, 4), np.int16), np.zeros((len(subjects), n), bool)
        for i, subject in enumerate(subjects):
            # Of its own for each place in the batch: any split over processes reads the same blocks.
            rng = np.random.default_rng([seed, first + i])
            file, column = self._files[subject], 0
            for name, size in zip(GROUPS, sizes.counts, strict=True):
                count = len(file[f"{name}.position"])
                if count and size:
                    block = _read_block(file, name, int(rng.integers(count)), size)
                    rows[i, column : column + size], trusted[i, column : column + size] = block
                column += size
        return torch.from_numpy(rows), torch.from_numpy(trusted)


def _read_block(file: MappedFile, name: str, start: int, n: int) -> tuple[Int16[ndarray, "n 4"], Bool[ndarray, " n"]]:
    """Read rows from `start` on, going round at the end."""
    kind = "normal" if name in _SURFACE else "sdf"
    count = len(file[f"{name}.position"])
    take = slice(start, start + n) if start + n <= count else np.arange(start, start + n) % count
    attribute = file[f"{name}.{kind}"][take]
    trusted = np.ones(n, bool) if kind == "normal" else file[f"{name}.trusted"][take].astype(bool)
    return _coded(file[f"{name}.position"][take], _packed(attribute)), trusted


def _coded(position: ndarray, attribute: ndarray) -> Int16[ndarray, "n 4"]:
    rows = np.empty((len(position), 4), np.int16)
    rows[:, :3] = (position ^ np.uint16(_HALF_RANGE)).view(np.int16)
    rows[:, 3] = attribute
    return rows


def _attribute(group: SurfaceSamples | DistanceSamples, step: float) -> Int16[ndarray, " n"]:
    if isinstance(group, SurfaceSamples):
        return _packed(encode_normals(group.normal))
    return encode_sdf(group.sdf, step)


def _packed(attribute: ndarray) -> Int16[ndarray, " n"]:
    """Give two bytes of a normal as one number; a distance is one already."""
    if attribute.ndim == 1:
        return attribute
    return np.ascontiguousarray(attribute).view(np.int16).reshape(-1)


def _trust(group: SurfaceSamples | DistanceSamples) -> Bool[ndarray, " n"]:
    return group.trusted if isinstance(group, DistanceSamples) else np.ones(len(group.position), bool)


def _decode_normals(codes: Int16[Tensor, "n_subjects n"]) -> Float[Tensor, "n_subjects n 3"]:
    """Undo the octahedral code, as `quantise.decode_normals` does."""
    return decode_octahedron(codes.contiguous().view(torch.int8).unflatten(-1, (-1, 2)).float() / _NORMAL_STEPS)


def _nothing() -> TrainingError:
    return TrainingError(
        "no subject has samples to train on; expected at least one subject whose canonical neutral has been sampled. "
        "See why in the summary of the scans, mend what failed there, and run again."
    )
