import numpy as np

from nphm_core.synthetic.mixed_expressions import mixed_expression
from nphm_core.synthetic.person import draw_person
from nphm_core.synthetic.subject import EXPRESSIONS


def test_mixed_expressions_use_arkit_names_and_weights_up_to_one():
    rng = np.random.default_rng(0)
    drawn = [mixed_expression(rng) for _ in range(200)]
    known = {name for spec in EXPRESSIONS.values() for name in spec.weights}
    assert known - {name for spec in drawn for name in spec.weights} <= {"cheekSquintLeft"}
    assert all(0 <= value <= 1 for spec in drawn for value in spec.weights.values())
    assert 0.35 < np.mean([bool(spec.rotations) for spec in drawn]) < 0.65
    assert all(spec.neutral == "" for spec in drawn)


def test_sides_are_mostly_alike():
    rng = np.random.default_rng(1)
    smiles = [s.weights for s in (mixed_expression(rng) for _ in range(500)) if "mouthSmileLeft" in s.weights]
    alike = np.mean([np.isclose(w["mouthSmileLeft"], w["mouthSmileRight"]) for w in smiles])
    assert 0.6 < alike < 0.9


def test_a_person_who_runs_out_of_named_expressions_mixes_more_and_keeps_the_named_ones(toy_source):
    few = draw_person(toy_source.surface, "plain", 8, rng=np.random.default_rng(3)).expressions
    many = draw_person(toy_source.surface, "plain", 20, rng=np.random.default_rng(3)).expressions
    assert len(many) == 20
    assert len([name for name in many if name.startswith("mixed-")]) == 20 - 11
    assert few["neutral"] == many["neutral"]
