"""Expression samples: pairs are those of the slow twin in distribution, of several topologies at once."""

import numpy as np
import pytest
import torch

from nphm_core.errors import SamplingError, TopologyError, TrainingError
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.supervision.sample_delta import DeltaPairs, write_delta_samples
from nphm_core.training.draws import Draws, Part
from nphm_core.training.pairs import PairSamples, RegisteredPair
from tests.training.conftest import CPU, make_sphere


def pair(sphere, stretch=(1.0, 1.0, 1.0), weight=None) -> RegisteredPair:
    vertices, faces = sphere
    return RegisteredPair(vertices, vertices * stretch, np.ones(len(vertices)) if weight is None else weight, faces)


def source(pairs: list[RegisteredPair], **options) -> PairSamples:
    names = [f"s/{i}" for i in range(len(pairs))]
    return PairSamples(names, np.arange(len(pairs)), pairs, device=CPU, **options)


def draw(samples: PairSamples, n: int, *, part: Part | None = None, std_mm=(2.5, 0.5), step=0):
    scans = torch.arange(len(samples.scans))
    generator = Draws(3, "test", CPU).at(step)
    return samples.draw(scans, n, part or Part.whole(len(scans)), generator=generator, std_mm=std_mm)


def test_a_stretch_comes_back_for_each_scan(small_sphere):
    stretches = [(1.1, 0.9, 1.0), (1.0, 1.3, 1.0)]
    batch = draw(source([pair(small_sphere, s) for s in stretches]), 2001, std_mm=(0.0,))
    assert batch.canonical.shape == (2, 2001, 3)
    error_mm = (batch.posed - batch.canonical * torch.tensor(stretches)[:, None]).abs() * MM_PER_CANONICAL_UNIT
    assert error_mm.max() < 0.005
    assert (batch.weight - 1).abs().max() < 1e-6


def test_moments_agree_with_the_slow_twin(small_sphere):
    vertices, faces = small_sphere
    weight = np.clip(0.5 + vertices[:, 0] / 0.4, 0, 1)
    posed = vertices * [1.4, 0.8, 1.0] + 0.05 * vertices[:, [1, 2, 0]]
    n = 40_000
    slow = DeltaPairs(vertices, posed, faces, weight).sample(n, rng=np.random.default_rng(0))
    fast = draw(source([RegisteredPair(vertices, posed, weight, faces)]), n)
    slow_rows = np.concatenate([slow.canonical, slow.posed, slow.weight[:, None]], axis=1)
    fast_rows = torch.cat([fast.canonical, fast.posed, fast.weight[..., None]], dim=2)[0].double().numpy()
    for moment in (1, 2, 3):
        a, b = (np.mean(rows**moment, axis=0) for rows in (slow_rows, fast_rows))
        spread = np.std(slow_rows**moment, axis=0) * np.sqrt(2 / n)
        assert (np.abs(a - b) < 4.5 * spread).all()
    lag = np.linalg.norm(slow.canonical, axis=1).std(), fast.canonical.norm(dim=2).std().item()
    assert lag[0] == pytest.approx(lag[1], rel=0.03)


def test_both_directions_have_their_half(small_sphere):
    vertices, faces = small_sphere
    posed = np.where(vertices[:, 1:2] > 0, 3 * vertices, vertices)
    batch = draw(source([RegisteredPair(vertices, posed, np.ones(len(vertices)), faces)]), 20_000)
    # By area the upper half has 1/2 of the canonical mesh and about 9/10 of the posed one.
    assert (batch.canonical[0, :, 1] > 0).float().mean().item() == pytest.approx(0.7, abs=0.02)


def test_the_offset_is_the_same_on_both_sides(small_sphere):
    batch = draw(source([pair(small_sphere, (1.5, 1.5, 1.5))]), 8000)
    canonical, posed = batch.canonical.norm(dim=2), batch.posed.norm(dim=2)
    assert (posed - canonical - 0.2).abs().max() < 2e-3
    offset_mm = (canonical - 0.4) * MM_PER_CANONICAL_UNIT
    assert offset_mm.std().item() == pytest.approx(np.sqrt((2.5**2 + 0.5**2) / 2), rel=0.05)


def test_untrusted_places_are_not_drawn(small_sphere):
    vertices, _ = small_sphere
    batch = draw(source([pair(small_sphere, weight=np.clip(vertices[:, 2] / 0.4, 0, 1))]), 5000, std_mm=(0.0,))
    assert batch.canonical[..., 2].min() > -0.03
    with pytest.raises(SamplingError, match="trusted"):
        source([pair(small_sphere, weight=np.zeros(len(vertices)))])


@pytest.mark.parametrize("max_megabytes", [100.0, 0.001])
def test_scans_of_two_topologies_lie_in_one_set(small_sphere, max_megabytes):
    coarse = make_sphere(2, 0.3)
    samples = source(
        [pair(small_sphere), pair(coarse, (2.0, 2.0, 2.0)), pair(small_sphere, (0.5, 0.5, 0.5))],
        max_megabytes=max_megabytes,
    )
    assert samples.is_resident == (max_megabytes > 1)
    batch = draw(samples, 1500, std_mm=(0.0,))
    radius = batch.canonical.norm(dim=2)
    assert (radius[[0, 2]] - 0.4).abs().max() < 0.004
    assert (radius[1] - 0.3).abs().max() < 0.03
    scale = (batch.posed.norm(dim=2) / radius).mean(1)
    assert torch.allclose(scale, torch.tensor([1.0, 2.0, 0.5]), atol=1e-4)


def test_meshes_in_the_computers_memory_give_the_same_pairs(small_sphere):
    pairs = [pair(small_sphere), pair(make_sphere(2, 0.3))]
    one, two = (draw(source(pairs, max_megabytes=limit), 200) for limit in (100.0, 0.001))
    assert torch.equal(one.canonical, two.canonical)
    assert torch.equal(one.posed, two.posed)


def test_a_step_split_over_processes_draws_what_one_process_draws(small_sphere):
    samples = source([pair(small_sphere, (1 + 0.1 * i, 1, 1)) for i in range(3)])
    whole = draw(samples, 101)
    parts = [draw(samples, 101, part=Part.of(3, rank, 2)) for rank in (0, 1)]
    for name in ("scan", "subject", "canonical", "posed", "weight"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize("part_only", [False, True])
def test_a_file_gives_the_pairs_of_its_meshes(small_sphere, tmp_path, part_only):
    vertices, faces = small_sphere
    keep = vertices[:, 2] > 0 if part_only else None
    path = tmp_path / "samples_delta.safetensors"
    write_delta_samples(path, vertices, vertices * [1.1, 1, 1], faces, np.ones(len(vertices)), {}, keep=keep)
    read = RegisteredPair.from_file(path, faces, len(vertices))
    batch = draw(source([read]), 2000, std_mm=(0.0,))
    error = (batch.posed - batch.canonical * torch.tensor([1.1, 1, 1])).abs()
    assert error.max() < 3e-5
    assert (batch.canonical[..., 2].min() >= -1e-4) == part_only
    with pytest.raises(TopologyError, match="topology"):
        RegisteredPair.from_file(path, faces[::-1], len(vertices))


def test_no_scan_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match="summary"):
        PairSamples((), np.zeros(0, int), [], device=CPU)
