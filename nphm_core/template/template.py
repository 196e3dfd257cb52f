"""The template: a head model with its landmark embedding, regions, mirrored pairs, anchors and topology hash.

A template lies in one folder, `template.npz` (arrays) and `template.json` (facts); reading and writing it is
deterministic. The hash names the topology, so that meshes of different templates are never mixed.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError, TopologyError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import read_json, read_npz, sha256_of, write_json, write_npz
from nphm_core.stages import TEMPLATE_VERSION
from nphm_core.template.model import HeadModel

REGIONS = (
    "face",
    "ears",
    "scalp",
    "neck",
    "lips_upper_rim",
    "lips_lower_rim",
    "eyelids",
    "eyeballs",
    "mouth_interior",
    "hidden",
    "hair_prone",
    "boundary",
)
"""Keys of every template's regions. Face, ears, scalp and neck divide the skin that can be seen."""

N_ANCHORS = 39


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Where the detector's landmarks lie on the template's surface."""

    index: Int[ndarray, " n"]
    """Number of the landmark among MediaPipe's 478."""
    face: Int[ndarray, " n"]
    barycentric: Float[ndarray, "n 3"]
    spread_mm: Float[ndarray, " n"]
    """How far the landmark wandered over views and heads when the embedding was learnt."""
    weight: Float[ndarray, " n"]
    """In [0, 1]; small for landmarks that wander."""

    @classmethod
    def empty(cls) -> "LandmarkEmbedding":
        """Give an embedding without landmarks."""
        none = np.zeros(0, np.int64)
        return cls(none, none, np.zeros((0, 3)), np.zeros(0), np.zeros(0))

    def points(
        self, vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]
    ) -> Float[ndarray, "n 3"]:
        """Give the landmarks of a mesh in the template's topology, in its unit."""
        return np.einsum("nk,nkd->nd", self.barycentric, vertices[faces[self.face]])

    def by_index(
        self, vertices: Float[ndarray, "n_vertices 3"], faces: Int[ndarray, "n_faces 3"]
    ) -> dict[int, Float[ndarray, " 3"]]:
        """Give the landmarks of a mesh by MediaPipe's numbers."""
        return {int(i): point for i, point in zip(self.index, self.points(vertices, faces), strict=True)}


@dataclass(frozen=True)
class Template:
    """A head model and what is known of its mesh."""

    model: HeadModel
    landmarks: LandmarkEmbedding
    regions: dict[str, Bool[ndarray, " n_vertices"]]
    """By the names in REGIONS."""
    pairs: Int[ndarray, " n_vertices"]
    """Mirrored vertex of each vertex; itself on the midline."""
    anchors: Int[ndarray, " 39"]
    """Vertices of NPHM's 39 anchors: 16 pairs (even, odd), then 7 on the midline."""
    hash: str
    """Names the topology: vertex count and faces."""
    facts: dict[str, int | float | str] = field(default_factory=dict)
    """What was measured when it was made."""

    @property
    def faces(self) -> Int[ndarray, "n_faces 3"]:
        """Triangles of the mesh."""
        return self.model.faces

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return self.model.n_vertices

    @property
    def name(self) -> str:
        """Name with the first part of the hash, as the cache's folder has it."""
        return f"{self.model.name}-{self.hash[:8]}"

    def region_faces(self, name: str) -> Bool[ndarray, " n_faces"]:
        """Mark the triangles whose corners all lie in a region."""
        return self.regions[name][self.faces].all(axis=1)


def topology_hash(n_vertices: int, faces: Int[ndarray, "n_faces 3"]) -> str:
    """Name a topology: SHA-256 of the vertex count and the faces in their order."""
    digest = hashlib.sha256(int(n_vertices).to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(faces, np.dtype("<i8")).tobytes())
    return digest.hexdigest()


def check_topology(mesh: Mesh, template: Template) -> None:
    """Raise TopologyError unless the mesh has exactly the template's vertices and faces."""
    if topology_hash(mesh.n_vertices, mesh.faces) != template.hash:
        raise TopologyError(
            f"the mesh has {mesh.n_vertices} vertices and {mesh.n_faces} triangles, in another order or number than "
            f"the template {template.name} with {template.n_vertices} and {len(template.faces)}; expected a mesh made "
            "with this template. Make it again with this template, or set template.source to the one it was made with."
        )


def bare_template(model: HeadModel) -> Template:
    """Give a template that knows its topology only: no landmarks, regions, pairs or anchors yet."""
    nothing = {name: np.zeros(model.n_vertices, bool) for name in REGIONS}
    return Template(
        model=model,
        landmarks=LandmarkEmbedding.empty(),
        regions=nothing,
        pairs=np.arange(model.n_vertices),
        anchors=np.zeros(N_ANCHORS, np.int64),
        hash=topology_hash(model.n_vertices, model.faces),
    )


def with_landmarks(template: Template, landmarks: LandmarkEmbedding) -> Template:
    """Give the template with a landmark embedding."""
    return replace(template, landmarks=landmarks)


_MODEL_ARRAYS = (
    "v_template",
    "faces",
    "shapedirs_identity",
    "shapedirs_expression",
    "weights",
    "joints",
    "joints_identity",
    "joints_expression",
    "posedirs",
    "mirror",
)
_LANDMARK_ARRAYS = ("index", "face", "barycentric", "spread_mm", "weight")
_FORMAT = 1


def write_template(folder: Path, template: Template) -> None:
    """Write a template's folder: `template.npz`, then `template.json`, whose presence says that it is complete."""
    model = template.model
    arrays = {f"model.{key}": getattr(model, key) for key in _MODEL_ARRAYS if getattr(model, key) is not None}
    arrays |= {f"landmarks.{key}": getattr(template.landmarks, key) for key in _LANDMARK_ARRAYS}
    arrays |= {f"regions.{name}": mask for name, mask in template.regions.items()}
    arrays |= {"pairs": template.pairs, "anchors": template.anchors}
    if model.landmarks68 is not None:
        arrays |= {"landmarks68.face": model.landmarks68[0], "landmarks68.barycentric": model.landmarks68[1]}
    facts = {
        "format": _FORMAT,
        "version": TEMPLATE_VERSION,
        "hash": template.hash,
        "name": model.name,
        "licence": model.licence,
        "unit": "m",
        "parents": list(model.parents),
        "joint_names": list(model.joint_names),
        "pose_joints": list(model.pose_joints),
        "expression_names": list(model.expression_names),
        "model_facts": model.facts,
        "facts": template.facts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Not compressed: every stage of every scan reads it.
    write_npz(folder / "template.npz", arrays, compress=False)
    # Whoever has seen the facts' digest has seen the arrays'.
    write_json(folder / "template.json", facts | {"arrays_sha256": sha256_of(folder / "template.npz")})


def read_template(folder: Path) -> Template:
    """Read what `write_template` wrote; TemplateError where the folder holds something else."""
    if not (folder / "template.json").is_file():
        raise TemplateError(
            "the template folder holds no template.json; expected what `python -m pipelines.template` writes. "
            f"Run that command. Folder {folder}"
        )
    facts, arrays = read_json(folder / "template.json"), read_npz(folder / "template.npz")
    model = _model_from(facts, arrays)
    found = topology_hash(model.n_vertices, model.faces)
    if facts["format"] != _FORMAT or facts["hash"] != found:
        raise TemplateError(
            f"the template's arrays (topology {found[:8]}) do not belong to its facts ({str(facts['hash'])[:8]}); "
            f"expected both from one run. Delete the folder and make it again. Folder {folder}"
        )
    return Template(
        model=model,
        landmarks=LandmarkEmbedding(**{key: arrays[f"landmarks.{key}"] for key in _LANDMARK_ARRAYS}),
        regions={name: arrays[f"regions.{name}"] for name in REGIONS},
        pairs=arrays["pairs"],
        anchors=arrays["anchors"],
        hash=facts["hash"],
        facts=facts["facts"],
    )


def _model_from(facts: dict, arrays: dict[str, ndarray]) -> HeadModel:
    landmarks68 = None
    if "landmarks68.face" in arrays:
        landmarks68 = (arrays["landmarks68.face"], arrays["landmarks68.barycentric"])
    return HeadModel(
        **{key: arrays[f"model.{key}"] for key in _MODEL_ARRAYS if f"model.{key}" in arrays},
        parents=tuple(facts["parents"]),
        joint_names=tuple(facts["joint_names"]),
        pose_joints=tuple(facts["pose_joints"]),
        expression_names=tuple(facts["expression_names"]),
        name=facts["name"],
        licence=facts["licence"],
        landmarks68=landmarks68,
        facts=facts["model_facts"],
    )
