import torch

from nphm_core.io.files import read_json
from nphm_core.models.checkpoint import CONFIG, WEIGHTS, from_pretrained
from nphm_core.models.pretrained import pretrained_folder
from nphm_core.spaces import MM_PER_CANONICAL_UNIT


def test_the_model_that_comes_with_the_project_is_small_and_says_what_it_is():
    folder = pretrained_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15e6
    facts = read_json(folder / CONFIG)["facts"]
    assert "300 synthetic subjects x 20 expressions" in facts["data"]
    for word in ("Apache-2.0", "CC0"):
        assert word in facts["licence"]
    assert "no person was scanned" in facts["limits"]
    assert facts["limits"] in (folder / "README.md").read_text()
    assert (folder / WEIGHTS).is_file()


def test_its_mean_head_is_a_head():
    head = from_pretrained(pretrained_folder())
    code = head.identity_prior.mean[None]
    points = torch.tensor([[[0.0, 0.15, -0.2], [0.0, 0.0, 0.9], [0.0, -0.2, 0.9], [0.9, 0.0, 0.0]]])
    with torch.no_grad():
        distance = head.identity.sdf(points, code)[0]
        moved = head.posed(points, code, head.expression_prior.mean[None])
    assert distance[0] < -0.1  # the middle of the skull
    assert (distance[1:] > 0.2).all()
    assert (moved - points).norm(dim=2).max() * MM_PER_CANONICAL_UNIT < 20
