"""From observations to clouds: frames, poses to start from, and rows of equal length."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from nphm_core.config import FitConfig
from nphm_core.fitting.linear_start import StartSearch
from nphm_core.fitting.observations import Observation
from nphm_core.fitting.variables import Clouds, Variables
from nphm_core.models.identity_field import N_ANCHORS
from nphm_core.models.neural_head import NeuralHead
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity, align_points

_MIN_ANCHORS = 4
_UNKNOWN_SCALE_STD = 0.3


@dataclass(frozen=True)
class Prepared:
    """One scan with its frame and the pose that is to be improved."""

    observation: Observation
    frame: Similarity
    """From the scan's own frame to its cloud: centred, in units of about one canonical unit."""
    pose: Similarity
    """From the cloud to canonical space."""
    candidates: tuple[Similarity, ...]
    """Poses to try."""

    def with_pose(self, pose: Similarity) -> "Prepared":
        """Give the scan with a pose, in a frame in which its scale is about one."""
        scale = Similarity(pose.scale, np.eye(3), np.zeros(3))
        return replace(self, frame=scale @ self.frame, pose=pose @ scale.inverse())


def prepare(
    observation: Observation,
    search: StartSearch,
    mean_anchors: Float[ndarray, "39 3"],
    settings: FitConfig,
    *,
    rng: np.random.Generator,
) -> Prepared:
    """Find the poses to start from: those of the anchors, the given one, and the best of a search."""
    points, normals = observation.points, observation.normals
    given = observation.T_canonical_observed
    start = None if given is None else given.inverse()
    found = search.poses(points, normals, start, n_best=settings.n_starts, rng=rng)
    anchors = _anchor_pose(observation, mean_anchors)
    poses = [pose for pose in (anchors, start, *found) if pose is not None]
    frame = _frame(points, found[0].scale)
    candidates = tuple((frame @ pose).inverse() for pose in poses)
    return Prepared(observation, frame, candidates[0], candidates)


def clouds_of(
    scans: list[tuple[Prepared, ...]], settings: FitConfig, *, rng: np.random.Generator, like: Tensor
) -> Clouds:
    """Draw points of every scan and put them into rows; type and device are those of `like`."""
    flat = [(subject, slot, scan) for subject, own in enumerate(scans) for slot, scan in enumerate(own)]
    n = min(settings.n_points, max(len(scan.observation.points) for _, _, scan in flat))
    rows = [_row(scan, n, settings, rng) for _, _, scan in flat]

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([row[name] for row in rows])).to(like)

    numbers = torch.tensor([(subject, slot) for subject, slot, _ in flat], device=like.device)
    names = ("points", "weights", "normals", "tangents", "anchors", "anchor_weights", "log_scale", "log_scale_std")
    return Clouds(subject=numbers[:, 0], slot=numbers[:, 1], **{name: stacked(name) for name in names})


def start_variables(head: NeuralHead, scans: list[tuple[Prepared, ...]], clouds: Clouds) -> Variables:
    """Give the means of the priors, in the scans' poses."""
    poses = [scan.pose for own in scans for scan in own]
    mean = head.identity_prior.mean

    def tensor(values: list[ndarray] | list[float]) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(v) for v in values])).to(mean)

    return Variables(
        mean.expand(clouds.n_subjects, -1),
        head.expression_prior.mean.expand(len(poses), -1),
        tensor([pose.rotation for pose in poses]),
        tensor([pose.translation for pose in poses]),
        tensor([np.log(pose.scale) for pose in poses]),
    )


def _row(scan: Prepared, n: int, settings: FitConfig, rng: np.random.Generator) -> dict[str, ndarray]:
    observation = scan.observation
    ids = np.sort(rng.permutation(len(observation.points))[:n])
    normals = np.zeros((n, 3))
    if observation.normals is not None:
        normals[: len(ids)] = observation.normals[ids]
    weights, points = np.zeros(n), np.zeros((n, 3))
    points[: len(ids)] = scan.frame.apply(observation.points[ids])
    weights[: len(ids)] = 1.0 if observation.weights is None else observation.weights[ids]
    anchors = np.full((N_ANCHORS, 3), np.nan) if observation.anchors is None else observation.anchors
    known = np.isfinite(anchors).all(axis=1)
    mm_per_unit = observation.mm_per_unit
    expected, std = np.log(scan.pose.scale), _UNKNOWN_SCALE_STD
    if mm_per_unit is not None:
        expected, std = np.log(mm_per_unit / MM_PER_CANONICAL_UNIT / scan.frame.scale), settings.scale_std
    return {
        "points": points,
        "weights": weights,
        "normals": normals,
        "tangents": _tangents(normals, rng),
        "anchors": np.where(known[:, None], scan.frame.apply(np.nan_to_num(anchors)), 0.0),
        "anchor_weights": known.astype(np.float64),
        "log_scale": np.array(expected),
        "log_scale_std": np.array(std),
    }


def _tangents(normals: Float[ndarray, "n 3"], rng: np.random.Generator) -> Float[ndarray, "n 3"]:
    tangents = np.cross(normals, rng.standard_normal(normals.shape))
    return tangents / np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)


def _anchor_pose(observation: Observation, mean_anchors: Float[ndarray, "39 3"]) -> Similarity | None:
    """Align the mean head's anchors to those on the scan; from canonical space to the scan."""
    if observation.anchors is None:
        return None
    known = np.isfinite(observation.anchors).all(axis=1)
    if known.sum() < _MIN_ANCHORS:
        return None
    return align_points(mean_anchors[known], observation.anchors[known])


def _frame(points: Float[ndarray, "n 3"], unit: float) -> Similarity:
    """Give the map that centres points and gives them canonical size, `unit` being a canonical unit in theirs."""
    return Similarity(1 / unit, np.eye(3), -points.mean(0) / unit)
