"""Linear head models in FLAME's form for FLAME's users: meshes in its topology, parameters, the model itself.

Metres, canonical frame (FLAME's own, head pose removed). Parameters have FLAME's names; a head is
`scale * R(rotation) @ model(shape, expression, root, neck, jaw, eyes) + translation`, with FLAME's joints in its order
root, neck, jaw, left eye, right eye, and R the matrix of a rotation vector.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nphm_core.errors import ExportError
from nphm_core.exports.registered_scan import RegisteredScan
from nphm_core.template.anchors import FLAME_TOPOLOGY
from nphm_core.template.model import FLAME_JOINTS, HeadModel
from nphm_core.template.rotations import rotation_vector
from nphm_core.template.template import Template

_FREE = ("CC0",)
"""Beginnings of licences under which a model may be passed on without asking anyone."""


def check_flame_form(model: HeadModel) -> None:
    """Raise ExportError unless the model has FLAME's joints, which its parameters are named after."""
    if model.joint_names != FLAME_JOINTS:
        raise ExportError(
            f"the head model has the joints {', '.join(model.joint_names)}; expected FLAME's: "
            f"{', '.join(FLAME_JOINTS)}. Export its meshes as ply, obj or glb instead"
        )


def has_flame_topology(template: Template) -> bool:
    """Tell whether vertex and triangle counts are FLAME's."""
    return (template.n_vertices, len(template.faces)) == FLAME_TOPOLOGY


def flame_parameters(scan: RegisteredScan) -> dict[str, Float[ndarray, " n"]]:
    """Give the parameters of a scan's fit by FLAME's names."""
    T = scan.to_metres @ scan.T_metric_model
    rotations = scan.fit.rotations
    return {
        "shape": scan.fit.identity,
        "expression": scan.fit.expression,
        "root": rotations[0],
        "neck": rotations[1],
        "jaw": rotations[2],
        "eyes": rotations[3:5].ravel(),
        "rotation": rotation_vector(T.rotation),
        "translation": T.translation,
        "scale": np.array([T.scale]),
    }


def may_pass_on(model: HeadModel) -> bool:
    """Tell whether the model's licence lets anyone pass it on."""
    return model.licence.startswith(_FREE)


def flame_model_arrays(model: HeadModel) -> dict[str, Any]:
    """Give the model by the keys of FLAME's files, for an npz.

    Joints are kept as positions here and as a regressor there: the smallest one that gives the same joints for every
    shape is found by least squares.
    """
    check_flame_form(model)
    shapes = np.concatenate([model.shapedirs_identity, model.shapedirs_expression], axis=2)
    arrays = {
        "v_template": model.v_template,
        "f": model.faces.astype(np.uint32),
        "shapedirs": shapes.astype(np.float32),
        "n_id": np.array(model.n_identity),
        "expr_names": np.array(model.expression_names),
        "J_regressor": _joint_regressor(model),
        "weights": model.weights,
        "kintree_table": np.array([model.parents, range(model.n_joints)]),
        "joint_names": np.array(model.joint_names),
        "licence": np.array(model.licence),
    }
    if model.posedirs is not None:
        arrays["posedirs"] = model.posedirs.astype(np.float32)
    if model.mirror is not None:
        arrays["mirror"] = model.mirror
    return arrays


def _joint_regressor(model: HeadModel) -> Float[ndarray, "n_joints n_vertices"]:
    n, j = model.n_vertices, model.n_joints
    moved = model.joints_expression
    if moved is None:
        moved = np.zeros((j, 3, model.n_expression))
    known = np.concatenate(
        [model.v_template[:, :, None], model.shapedirs_identity, model.shapedirs_expression], axis=2
    ).astype(np.float64)
    wanted = np.concatenate([model.joints[:, :, None], model.joints_identity, moved], axis=2)
    left = np.concatenate([known.reshape(n, -1), np.ones((n, 1))], axis=1)
    right = np.concatenate([wanted.reshape(j, -1), np.ones((j, 1))], axis=1)
    return np.linalg.lstsq(left.T, right.T, rcond=1e-10)[0].T
