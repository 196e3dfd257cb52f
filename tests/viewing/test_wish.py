"""What controls mean in codes."""

import numpy as np
import pytest
import torch

from nphm_core.config import IdentityModelConfig
from nphm_core.models.codes import GROUPS, CodeLayout
from nphm_core.models.neural_head import build_head
from nphm_core.template.anchors import mean_anchors
from nphm_core.viewing.wish import CANONICAL, MEAN, HeadWish, ModelCodes
from tests.meshing.sphere_head import SphereHead


@pytest.fixture
def codes():
    return ModelCodes(SphereHead())


def test_a_subject_and_the_way_to_another_are_on_a_line(codes):
    assert codes.identity(HeadWish(subject="small")) == pytest.approx(0.3)
    assert codes.identity(HeadWish(subject=MEAN)) == pytest.approx(0.35)
    assert codes.identity(HeadWish(subject="small", towards="large", share=0.25)) == pytest.approx(0.325)
    assert codes.identity(HeadWish(subject="small", towards="large", share=1.0)) == pytest.approx(0.4)
    # Without anybody to go to, the share means nothing.
    assert codes.identity(HeadWish(subject="small", share=0.7)) == pytest.approx(0.3)


def test_axes_count_in_standard_deviations_of_the_training_codes(codes):
    assert codes.n_identity_axes == 1
    deviation = np.std([0.3, 0.4], ddof=1)
    assert abs(float(codes.identity(HeadWish(identity_axes=(2.0,)))) - 0.35) == pytest.approx(2 * deviation)


def test_canonical_space_has_no_expression(codes):
    assert codes.expression(HeadWish(expression=CANONICAL)) is None
    assert codes.expression(HeadWish(expression=CANONICAL, expression_axes=(0.0, 0.0))) is None
    moved = codes.expression(HeadWish(expression=CANONICAL, expression_axes=(1.0,)))
    assert torch.linalg.norm(moved - codes.expression(HeadWish(expression=MEAN))) > 0.05


def test_an_expression_can_be_anybodys_and_weaker_or_stronger(codes):
    full = codes.expression(HeadWish(subject="small", expression="large/low"))
    torch.testing.assert_close(full, torch.tensor([0.1, 0.8]))
    none = codes.expression(HeadWish(expression="large/low", strength=0.0))
    torch.testing.assert_close(none, torch.tensor([0.05, 0.9]))
    half = codes.expression(HeadWish(expression="large/low", strength=0.5))
    torch.testing.assert_close(half, (full + none) / 2)


def test_a_carried_expression_is_what_it_adds_to_its_subjects_other_scan(codes):
    wish = HeadWish(subject="small", expression="large/low", carried=True, carried_from="small/rest")
    # The target's own scan of that expression is the source: all of it is added back.
    torch.testing.assert_close(codes.expression(wish), torch.tensor([0.1, 0.8]))
    other = HeadWish(subject="large", expression="large/low", carried=True, carried_from="small/rest")
    expected = torch.tensor([0.05, 0.9]) + torch.tensor([0.1, 0.8]) - torch.tensor([0.0, 1.0])
    torch.testing.assert_close(codes.expression(other), expected)


def test_regions_are_taken_from_another_subject_and_nothing_else_is():
    settings = IdentityModelConfig(n_global=4, n_local=2, n_hidden=16)
    head = build_head(
        settings, None, torch.from_numpy(mean_anchors()).float(), generator=torch.Generator().manual_seed(0)
    )
    layout = CodeLayout.of(settings)
    head.identity_codes = torch.stack([torch.zeros(layout.n_code), torch.ones(layout.n_code)])
    head.subjects = ("zero", "one")
    codes = ModelCodes(head)
    assert set(codes.regions) == {*GROUPS, "global"}
    code = codes.identity(HeadWish(subject="zero", regions=("nose",), regions_from="one"))
    taken = layout.local(code[None])[0].any(dim=1)
    assert taken.nonzero().ravel().tolist() == sorted(GROUPS["nose"])


def test_a_wish_names_files_without_slashes():
    assert HeadWish(subject="s1", expression="s2/smile").name == "s1-s2-smile"
