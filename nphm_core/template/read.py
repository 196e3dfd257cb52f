"""Read head models: FLAME (pickle or npz), any npz in FLAME's layout, Google's GNM, and the embedded default.

What a file is follows from its keys, never from its name. Everything is checked before use: shapes, finite numbers,
and that the head has the size of a head in metres.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from nphm_core.errors import TemplateError
from nphm_core.io.array_files import ArrayFileError, read_npz_arrays
from nphm_core.template.model import FLAME_JOINTS, HeadModel
from nphm_core.template.safe_pickle import read_pickle_arrays

FLAME_VERTICES = 5023
_FLAME_KEYS = ("v_template", "shapedirs", "weights", "J_regressor", "kintree_table")
_GNM_KEYS = ("template_vertex_positions", "vertex_identity_basis", "expression_basis", "skinning_weights", "triangles")
_HEAD_METRES = (0.12, 1.0)


def read_head_model(source: str) -> HeadModel:
    """Read the head model that a setting names: `embedded`, or the path of a file.

    Raises TemplateError for a file that is missing, damaged, of another kind, or not in metres.
    """
    if source == "embedded":
        from nphm_core.template.embedded import build_embedded_model  # torch-free, but reads a thousand files

        return build_embedded_model()
    path = Path(source).expanduser()
    if not path.is_file():
        raise TemplateError(
            "the head model file does not exist; expected `embedded` or the path of a FLAME or GNM file. "
            f"Correct template.source in the config. File {path}"
        )
    data = _read_npz(path) if zipfile.is_zipfile(path) else read_pickle_arrays(path)
    try:
        if all(key in data for key in _FLAME_KEYS):
            model = _from_flame(data, path.stem)
        elif all(key in data for key in _GNM_KEYS):
            model = _from_gnm(data, path.stem)
        else:
            raise TemplateError(
                f"the file has the keys {sorted(data)[:12]}; expected FLAME's {list(_FLAME_KEYS)} or GNM's "
                f"{list(_GNM_KEYS)}. Give another file as template.source."
            )
        return check_head_model(model)
    except TemplateError as error:
        raise TemplateError(f"{error} File {path}") from None
    except Exception as error:  # a stranger's arrays can clash in any way
        raise TemplateError(
            f"the arrays of the head model do not fit together ({type(error).__name__}: {error}); expected those of a "
            f"FLAME or GNM file. Download it again. File {path}"
        ) from error


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        return read_npz_arrays(path)
    except (OSError, ArrayFileError) as error:
        raise TemplateError(
            f"the npz cannot be read ({error}); expected plain arrays. Download or make it again. File {path}"
        ) from error


def _from_flame(data: dict[str, Any], name: str) -> HeadModel:
    template = np.asarray(data["v_template"], np.float64)
    shapes = np.asarray(data["shapedirs"], np.float32)
    faces = np.asarray(data["f"] if "f" in data else data.get("faces")).astype(np.int64)
    n_identity = _count_identity(data, shapes.shape[-1])
    regressor = np.asarray(data["J_regressor"], np.float64)
    identity, expression = shapes[:, :, :n_identity], shapes[:, :, n_identity:]
    table = np.asarray(data["kintree_table"]).astype(np.int64)
    n_joints = table.shape[1]
    posedirs = _posedirs(data.get("posedirs"), len(template))
    # FLAME itself regresses joints from the expressive shape; models that name their expressions do not.
    named = "expr_names" in data
    return HeadModel(
        v_template=template,
        faces=faces,
        shapedirs_identity=np.ascontiguousarray(identity),
        shapedirs_expression=np.ascontiguousarray(expression),
        weights=_normalised(np.asarray(data["weights"], np.float64)),
        parents=tuple(int(p) if 0 <= p < n_joints else -1 for p in table[0]),
        joint_names=_joint_names(data, n_joints),
        joints=regressor @ template,
        joints_identity=_regressed(regressor, identity),
        joints_expression=None if named else _regressed(regressor, expression),
        posedirs=posedirs,
        pose_joints=tuple(range(1, n_joints)) if posedirs is not None else (),
        expression_names=_expression_names(data, expression.shape[2]),
        name=_short_name(name),
        licence=str(data.get("licence", "see the model's own licence")),
        landmarks68=_landmarks68(data, faces),
        mirror=np.asarray(data["mirror"], np.int64) if "mirror" in data else None,
    )


def _from_gnm(data: dict[str, Any], name: str) -> HeadModel:
    template = np.asarray(data["template_vertex_positions"], np.float64)
    identity = np.moveaxis(np.asarray(data["vertex_identity_basis"], np.float32), 0, -1)
    expression = np.moveaxis(np.asarray(data["expression_basis"], np.float32), 0, -1)
    joints = np.asarray(data["template_joint_positions"], np.float64)
    parents = np.asarray(data["joint_parent_indices"]).astype(np.int64)
    posedirs = _posedirs(data.get("pose_correctives_regressor"), len(template))
    return HeadModel(
        v_template=template,
        faces=np.asarray(data["triangles"]).astype(np.int64),
        shapedirs_identity=np.ascontiguousarray(identity),
        shapedirs_expression=np.ascontiguousarray(expression),
        weights=_normalised(np.asarray(data["skinning_weights"], np.float64).T),
        # GNM gives its first joint itself as parent.
        parents=tuple(int(p) if 0 <= p < len(joints) and p != j else -1 for j, p in enumerate(parents)),
        joint_names=_joint_names(data, len(joints)),
        joints=joints,
        joints_identity=np.moveaxis(np.asarray(data["joint_identity_basis"], np.float64), 0, -1),
        posedirs=posedirs,
        pose_joints=tuple(range(len(joints))) if posedirs is not None else (),
        expression_names=_expression_names(data, expression.shape[2]),
        name=_short_name(name),
        licence="Apache-2.0 (Google GNM)",
        mirror=np.asarray(data["mirror_indices"], np.int64) if "mirror_indices" in data else None,
    )


def check_head_model(model: HeadModel) -> HeadModel:
    """Give the model back if its parts agree; TemplateError names the first that does not."""
    n, j = model.n_vertices, model.n_joints
    shapes = {
        "v_template": (model.v_template.shape, (n, 3)),
        "shapedirs": (model.shapedirs_identity.shape[:2] + model.shapedirs_expression.shape[:2], (n, 3, n, 3)),
        "weights": (model.weights.shape, (n, j)),
        "joints": (model.joints.shape, (j, 3)),
        "faces": (model.faces.shape, (len(model.faces), 3)),
    }
    if model.posedirs is not None:
        shapes["posedirs"] = (model.posedirs.shape, (n, 3, 9 * len(model.pose_joints)))
    for key, (found, expected) in shapes.items():
        if tuple(found) != tuple(expected):
            raise TemplateError(f"{key} has shape {found}; expected {expected}. The file is damaged.")
    if model.faces.min(initial=0) < 0 or model.faces.max(initial=-1) >= n:
        raise TemplateError(f"a face names vertex {model.faces.max()}; there are {n}. The file is damaged.")
    for key, values in {"v_template": model.v_template, "shapedirs": model.shapedirs_identity}.items():
        if not np.isfinite(values).all():
            raise TemplateError(f"{key} holds numbers that are not finite. The file is damaged.")
    height = float(np.ptp(model.v_template[:, 1]))
    if not _HEAD_METRES[0] < height < _HEAD_METRES[1]:
        raise TemplateError(
            f"the mean head is {height:.4g} m tall; expected {_HEAD_METRES[0]} to {_HEAD_METRES[1]}. "
            "Head models are in metres, +y up: convert the file."
        )
    return model


def _count_identity(data: dict[str, Any], n_shapes: int) -> int:
    if "n_id" in data:
        return int(data["n_id"])
    if "expr_names" in data:
        return n_shapes - len(data["expr_names"])
    if n_shapes > 300:  # all releases of FLAME: 300 identity components, then expressions
        return 300
    raise TemplateError(
        f"the file has {n_shapes} shape components and does not say how many are identity; expected FLAME's 300 + 100, "
        "or a key n_id. Add that key."
    )


def _posedirs(values: Any, n_vertices: int) -> ndarray | None:
    if values is None or np.size(values) == 0:
        return None
    values = np.asarray(values, np.float32)
    if values.ndim == 2:  # (features, 3 V), as GNM and some FLAME exports have it
        values = np.moveaxis(values.reshape(len(values), n_vertices, 3), 0, -1)
    return np.ascontiguousarray(values)


def _normalised(weights: ndarray) -> ndarray:
    total = weights.sum(axis=1, keepdims=True)
    if np.abs(total - 1).max(initial=0) > 0.02:
        worst = float(total[np.abs(total - 1).argmax(), 0])
        raise TemplateError(f"the skinning weights of a vertex sum to {worst:.3f}; expected 1. The file is damaged.")
    return weights / total


def _regressed(regressor: ndarray, basis: ndarray) -> ndarray:
    n = len(basis)
    return (regressor @ basis.reshape(n, -1)).reshape(len(regressor), 3, basis.shape[2])


def _joint_names(data: dict[str, Any], n_joints: int) -> tuple[str, ...]:
    if "joint_names" not in data:
        if n_joints != len(FLAME_JOINTS):
            return tuple(f"joint{i}" for i in range(n_joints))
        return FLAME_JOINTS
    return tuple(_joint_name(str(name)) for name in data["joint_names"])


def _joint_name(name: str) -> str:
    """Give our name of a joint; models write LeftEye, eye_l, left_eye."""
    low = name.lower().replace(".", "_")
    if "eye" in low:
        left = "left" in low or low.startswith("l_") or low.endswith("_l")
        return "left_eye" if left else "right_eye"
    return next((known for known in ("root", "neck", "jaw", "head") if known in low), low)


def _expression_names(data: dict[str, Any], n_expression: int) -> tuple[str, ...]:
    names = data.get("expr_names", data.get("expression_names"))
    if names is None or len(names) != n_expression:
        return tuple(f"expression{i}" for i in range(n_expression))
    return tuple(str(name) for name in names)


def _landmarks68(data: dict[str, Any], faces: ndarray) -> tuple[ndarray, ndarray] | None:
    if "lmk68_face" in data and "lmk68_bary" in data:
        return np.asarray(data["lmk68_face"], np.int64), np.asarray(data["lmk68_bary"], np.float64)
    if "lmk68" not in data:
        return None
    vertices = np.asarray(data["lmk68"], np.int64)
    hit = faces[:, None, :] == vertices[None, :, None]
    face = hit.any(axis=2).argmax(axis=0)
    bary = (faces[face] == vertices[:, None]).astype(np.float64)
    return face.astype(np.int64), bary


def _short_name(stem: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in stem).strip("-").lower()[:40] or "head"
