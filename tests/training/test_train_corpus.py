import json

import numpy as np
import pytest
import torch

from nphm_core.config import TrainExpressionConfig, TrainIdentityConfig
from nphm_core.models.checkpoint import WEIGHTS, from_pretrained, write_checkpoint
from nphm_core.synthetic.corpus import SAMPLES, CorpusMember
from nphm_core.synthetic.corpus_folder import make_corpus
from nphm_core.training.loop import Run
from nphm_core.training.train_corpus import CorpusSettings, shortened, train_on_corpus
from tests.synthetic.conftest import toy_map, toy_source, toy_template  # noqa: F401

FEW = {"batch_subjects": 2, "n_face": 20, "n_rest": 5, "n_near": 20, "n_far": 5, "n_steps": 2, "log_every": 1}


@pytest.fixture
def trained(tmp_path, toy_source):  # noqa: F811
    members = [CorpusMember(f"train-{k}", "toy", False) for k in range(2)] + [CorpusMember("test-0", "toy", True)]
    few = {"n_surface": 200, "n_near": 200, "n_far": 100}
    samples = SAMPLES.model_copy(update=few)
    corpus = make_corpus(tmp_path / "corpus", [toy_source], members, "full", n_expressions=3, samples=samples)
    small = {"n_hidden": 16, "n_local": 4, "n_global": 4, "n_hidden_anchors": 16}
    identity = TrainIdentityConfig.model_validate(FEW | {"model": small})
    expression = TrainExpressionConfig.model_validate({"n_steps": 2, "batch_scans": 2, "n_pairs": 20, "log_every": 1})
    settings = CorpusSettings(identity, expression)
    return corpus, train_on_corpus(corpus, settings, device=torch.device("cpu"), run=Run())


def test_a_corpus_gives_a_model_of_its_training_subjects_only(trained):
    corpus, head = trained
    assert head.subjects == ("train-0", "train-1")
    assert len(head.scans) == 2 * 3
    assert head.template_hash == corpus.topology.template_hash
    assert "2 synthetic subjects x 3 expressions" in head.facts["data"]
    assert head.facts["held_out"] == "1 synthetic subjects"
    assert head.facts["identity.total"] > 0


def test_half_precision_is_half_the_size_and_reads_back_as_float32(trained, tmp_path):
    _, head = trained
    write_checkpoint(tmp_path / "whole", head)
    write_checkpoint(tmp_path / "half", head, half=True)
    size = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "half")]
    assert size[1] < 0.6 * size[0]
    again = from_pretrained(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    torch.testing.assert_close(again.identity_codes, head.identity_codes, rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["facts"]["seed"] == 0


def test_a_short_training_lowers_its_rates_as_often_as_a_long_one():
    settings = TrainIdentityConfig()
    short = shortened(settings, 600)
    assert short.n_steps == 600
    assert short.optimiser.decay_every == 100
    assert np.isclose(settings.n_steps / settings.optimiser.decay_every, 6, rtol=0.5)
