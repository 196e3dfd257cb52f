from types import SimpleNamespace

import pytest

from nphm_core.config import Config
from workflow.model_planning import ModelPlan


def options(initial_models: str, model: str, stage: str = "train_identity") -> str:
    plan = SimpleNamespace(settings=Config(initial_models=initial_models))
    return ModelPlan(plan).options(stage)(SimpleNamespace(model=model))


@pytest.fixture
def earlier(tmp_path):
    (tmp_path / "nphm" / "head").mkdir(parents=True)
    (tmp_path / "nphm" / "head" / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize("stage", ["train_identity", "train_expression"])
def test_training_goes_on_from_an_earlier_model_on_request(stage, earlier):
    assert f"--initial {earlier}/nphm/head" in options(earlier, "nphm", stage)
    assert "--initial" not in options("", "nphm", stage)


def test_a_model_that_was_not_trained_earlier_starts_anew(earlier):
    assert "--initial" not in options(earlier, "npm")
