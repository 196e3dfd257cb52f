"""What the stage flame_fit gives its solver."""

import argparse
from pathlib import Path

import pytest

from nphm_core.config import FlameFitConfig
from nphm_core.stages import STAGES
from pipelines import flame_fit
from pipelines.stage_command import Job


class _SeenError(Exception):
    """Ends the stage once the solver was called."""


def _drawn(scan_id: str, monkeypatch, seed: int = 0) -> float:
    draws = []

    def solver(*arguments, rng, **options):
        draws.append(rng.random())
        raise _SeenError

    monkeypatch.setattr(flame_fit, "read_landmarks", lambda job: (None, {"unit": "mm"}))
    monkeypatch.setattr(flame_fit, "read_scan_surface", lambda job: None)
    monkeypatch.setattr(flame_fit, "fit_flame", solver)
    monkeypatch.setattr(Job, "template", argparse.Namespace(hash="a hash"))
    monkeypatch.setattr(Job, "related", lambda job, role: None)
    job = Job(scan_id, STAGES["flame_fit"], Path(), Path(), FlameFitConfig(), seed, Path(), argparse.Namespace())
    with pytest.raises(_SeenError):
        flame_fit.process(job)
    return draws[0]


def test_every_scan_is_fitted_at_the_same_vertices(monkeypatch):
    assert _drawn("a/neutral", monkeypatch) == _drawn("a-turned/neutral", monkeypatch)
    assert _drawn("a/neutral", monkeypatch) != _drawn("a/neutral", monkeypatch, seed=1)
