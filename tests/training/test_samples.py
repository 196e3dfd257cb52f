"""Identity samples: what is drawn is what was stored, from the device and from files, whole and split."""

import numpy as np
import pytest
import torch

from nphm_core.errors import TrainingError
from nphm_core.supervision.sample_file import SDF_KIND, MappedFile, SdfSampleReader, write_sdf_samples
from nphm_core.training.draws import BatchOrder, Draws, Part
from nphm_core.training.samples import CodedSubject, GroupSizes, IdentitySamples
from tests.training.conftest import CPU, sphere_samples

SIZES = GroupSizes(face=40, rest=10, near=30, far=20)
RADII = (0.3, 0.4, 0.5)
ANCHORS = np.random.default_rng(0).standard_normal((3, 39, 3))


def subjects():
    return [sphere_samples(radius, 500, seed) for seed, radius in enumerate(RADII)]


def draw(samples: IdentitySamples, step: int = 0, part: Part | None = None, batch: int = 3, sizes=SIZES):
    order = BatchOrder(len(samples.subjects), batch, seed=1, purpose="test", device=CPU)
    generator = Draws(1, "test", CPU).at(step)
    return samples.draw(order, step, sizes, part or Part.whole(order.batch), generator=generator)


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, samples in enumerate(subjects()):
        paths.append(tmp_path / f"{i}.safetensors")
        write_sdf_samples(paths[-1], samples, {"scan": f"s{i}/open"})
    return paths


@pytest.fixture(params=["arrays", "files", "mapped"])
def samples(request, files) -> IdentitySamples:
    names = ("a", "b", "c")
    if request.param == "arrays":
        return IdentitySamples.from_arrays(names, subjects(), ANCHORS, device=CPU)
    limit = 0.001 if request.param == "mapped" else 100.0
    made = IdentitySamples.from_files(names, files, ANCHORS, device=CPU, max_megabytes=limit)
    assert made.is_resident == (request.param == "files")
    return made


def test_surface_points_lie_on_each_subjects_sphere_with_its_normal(samples):
    batch = draw(samples)
    radius = torch.tensor(RADII)[batch.subject]
    surface = batch.points[:, : SIZES.surface]
    assert (surface.norm(dim=2) - radius[:, None]).abs().max() < 1e-4
    cosine = (surface / radius[:, None, None] * batch.normals).sum(2)
    assert cosine.min() > np.cos(0.018)
    assert batch.present.all()


def test_stored_distances_belong_to_their_points(samples):
    batch = draw(samples)
    radius = torch.tensor(RADII)[batch.subject]
    true = batch.points[:, SIZES.surface :].norm(dim=2) - radius[:, None]
    assert (batch.sdf - true).abs().max() < 2e-4
    assert 0.6 < batch.trusted.float().mean() < 1


def test_anchors_are_those_of_the_subject(samples):
    batch = draw(samples)
    assert torch.equal(batch.anchors, torch.tensor(ANCHORS, dtype=torch.float32)[batch.subject])


def test_a_step_split_over_processes_draws_what_one_process_draws(samples):
    whole = draw(samples, step=4)
    parts = [draw(samples, step=4, part=Part.of(3, rank, 2)) for rank in (0, 1)]
    for name in ("subject", "points", "normals", "sdf", "trusted", "anchors"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize(("n_rows", "n_processes"), [(7, 3), (4, 4), (2, 5)])
def test_the_shares_of_all_parts_make_one_batch(n_rows, n_processes):
    parts = [Part.of(n_rows, rank, n_processes) for rank in range(n_processes)]
    assert sum(part.share for part in parts) == pytest.approx(1)
    values = torch.rand(n_rows, generator=torch.Generator().manual_seed(0))
    mean = sum(part.share * part(values).mean() for part in parts)
    assert float(mean) == pytest.approx(float(values.mean()))


def test_steps_differ_and_a_step_repeats(samples):
    assert torch.equal(draw(samples, step=3).points, draw(samples, step=3).points)
    assert not torch.equal(draw(samples, step=3).points, draw(samples, step=5).points)


def test_a_subject_without_rest_is_masked_and_nothing_is_nan():
    bald = [sphere_samples(0.4, 50, 0, n_rest=0), sphere_samples(0.4, 50, 1)]
    samples = IdentitySamples.from_arrays(("bald", "hairy"), bald, ANCHORS[:2], device=CPU)
    batch = draw(samples, batch=2)
    rest = batch.present[:, SIZES.face : SIZES.surface]
    assert torch.equal(rest.all(1), batch.subject == 1)
    assert not rest[batch.subject == 0].any()
    assert batch.points.isfinite().all()
    assert batch.normals.isfinite().all()


def test_coded_rows_of_file_and_of_memory_are_the_same(files):
    for path, made in zip(files, subjects(), strict=True):
        stored, coded = CodedSubject.from_file(MappedFile(path, SDF_KIND)), CodedSubject.from_samples(made)
        assert np.array_equal(stored.rows, coded.rows)
        assert np.array_equal(stored.trusted, coded.trusted)


def test_decoded_samples_are_those_of_the_reader(files):
    """The slow twin: every row that is drawn is a row of the file as its own reader decodes it."""
    samples = IdentitySamples.from_files(("a",), files[:1], ANCHORS[:1], device=CPU)
    batch = draw(samples, batch=1)
    reader = SdfSampleReader(files[0])
    position, normal = reader.surface("face", 0, reader.count("face"))
    distance = torch.cdist(batch.points[0, : SIZES.face].double(), torch.tensor(position).double())
    nearest = distance.argmin(1)
    assert distance.min(1).values.max() < 1e-6
    assert (batch.normals[0, : SIZES.face] - torch.tensor(normal)[nearest]).abs().max() < 1e-6
    position, sdf, trusted = reader.distances("near", 0, reader.count("near"))
    first = SIZES.surface
    nearest = torch.cdist(batch.points[0, first : first + SIZES.near], torch.tensor(position)).argmin(1)
    assert (batch.sdf[0, : SIZES.near] - torch.tensor(sdf)[nearest]).abs().max() < 1e-6
    assert torch.equal(batch.trusted[0, : SIZES.near], torch.tensor(trusted)[nearest])


def test_all_rows_are_drawn_equally_often():
    samples = IdentitySamples.from_arrays(("a",), [sphere_samples(0.4, 20, 0)], ANCHORS[:1], device=CPU)
    batch = draw(samples, batch=1, sizes=GroupSizes(20_000, 0, 0, 0))
    _, counts = batch.points[0].unique(dim=0, return_counts=True)
    assert len(counts) == 20
    assert (counts - 1000).abs().max() < 150


def test_an_epoch_has_every_subject_once_in_a_new_order():
    order = BatchOrder(7, 3, seed=0, purpose="x", device=CPU)
    assert order.steps_an_epoch == 2
    epochs = [torch.cat([order.at(2 * e), order.at(2 * e + 1)]) for e in range(4)]
    assert all(len(set(epoch.tolist())) == 6 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(order.at(0), epochs[0][:3])


def test_no_subject_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match="summary"):
        IdentitySamples.from_arrays((), [], np.zeros((0, 39, 3)), device=CPU)
