"""What the tests of templates share."""

import pytest

from nphm_core.template.embedded import build_embedded_model
from nphm_core.template.model import HeadModel


@pytest.fixture(scope="session")
def embedded_model() -> HeadModel:
    """The embedded model, its identity space learnt from few heads only."""
    return build_embedded_model(n_heads=60)
