"""A corpus of synthetic people in one topology, with known truth: registered meshes, anchors, samples, observations.

People come from two linear head models in the same topology (see `carried_model`), so that neither alone is the space
that a linear baseline has to find. Everything is in canonical space and follows from the corpus's seed and the
subject's name: a subject can be made alone, on any machine, in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from nphm_core.config import SampleSdfConfig
from nphm_core.geometry.closest import ClosestPoints
from nphm_core.geometry.mesh import Mesh
from nphm_core.seeds import rng_for
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.supervision.sample_sdf import sample_sdf
from nphm_core.supervision.samples import Plane, SdfSamples
from nphm_core.supervision.throat import throat_plane
from nphm_core.synthetic.closed_head import closed_head, visible_faces
from nphm_core.synthetic.head_map import HeadMap, head_map
from nphm_core.synthetic.observation import SingleView, observe
from nphm_core.synthetic.person import OPEN, Variant, canonical_skin, draw_person, hair_offset
from nphm_core.synthetic.subject import MM_PER_METRE, HeadSurface
from nphm_core.template.model import HeadModel
from nphm_core.template.template import Template

SAMPLES = SampleSdfConfig(n_surface=100_000, n_near=100_000, n_far=30_000)
"""Samples of a subject: 2 MB as they are stored."""

_HAIR_TRUST_MM = 3.0
_T_CANONICAL_MM = Similarity(1.0 / MM_PER_CANONICAL_UNIT, np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class CorpusTopology:
    """What all meshes of a corpus share."""

    faces: Int[ndarray, "m 3"]
    regions: dict[str, Bool[ndarray, " n"]]
    """The template's, on the refined vertices."""
    anchors: Int[ndarray, " 39"]
    """Vertices of the anchors."""
    n_template_vertices: int
    """The first so many vertices are the template's, in its order."""
    template_hash: str
    levels: int

    @property
    def visible(self) -> Bool[ndarray, " n"]:
        """Mark vertices that a scanner may see and a registration follow."""
        return ~np.any([self.regions[name] for name in ("hidden", "mouth_interior", "eyeballs")], axis=0)


@dataclass(frozen=True)
class CorpusSource:
    """A head model that people are drawn from."""

    name: str
    surface: HeadSurface
    template: Template
    """Its topology and regions; its own model."""
    topology: CorpusTopology
    to_ear_mm: Float[ndarray, " n"]
    """Distance to the nearest ear on the mean head."""


@dataclass(frozen=True)
class CorpusSubject:
    """One person, in canonical space."""

    name: str
    source: str
    variant: Variant
    expressions: tuple[str, ...]
    """The closed neutral first, then the open one, which is canonical."""
    skin: Float32[ndarray, "n_expressions n 3"]
    """Registered meshes: bare skin, as a template without hair is registered."""
    hair: Float32[ndarray, "n 3"]
    """From the skin to the surface of the hair; zero where there is none."""
    anchors: Float[ndarray, "39 3"]
    throats: tuple[Plane, ...]
    """Of each expression."""
    samples: SdfSamples | None
    """Of the canonical neutral's surface, hair included; None where they were not read."""

    @property
    def canonical(self) -> int:
        """Row of the canonical neutral among the expressions."""
        return self.expressions.index(OPEN) if OPEN in self.expressions else 0

    def surface(self, row: int) -> Float[ndarray, "n 3"]:
        """Give the surface that a scanner would see in an expression, hair included."""
        return self.skin[row].astype(np.float64) + self.hair

    def trust(self, topology: CorpusTopology) -> Float[ndarray, " n"]:
        """Give how far a registration could know the skin: not where it is hidden, hardly under hair."""
        bare = np.linalg.norm(self.hair, axis=1) * MM_PER_CANONICAL_UNIT < _HAIR_TRUST_MM
        return topology.visible * np.where(bare, 1.0, 0.1)

    def scan_mm(self, row: int, topology: CorpusTopology) -> Mesh:
        """Give what a perfect scanner would deliver of an expression: visible triangles, mm, canonical axes."""
        vertices = self.surface(row) * MM_PER_CANONICAL_UNIT
        return Mesh(vertices, topology.faces[visible_faces(vertices, topology.faces)])

    def observation(
        self, row: int, topology: CorpusTopology, *, noise_mm: float, n_points: int = 2500, seed: int = 0
    ) -> SingleView:
        """Look at an expression from a frontal direction; the view depends on name, expression and seed only."""
        rng = rng_for(seed, "observe", f"{self.name}/{self.expressions[row]}")
        throat = self.throats[row]
        return observe(self.surface(row), topology.faces, throat, noise_mm=noise_mm, n_points=n_points, rng=rng)


def corpus_source(name: str, template: Template, model: HeadModel, *, levels: int = 2) -> CorpusSource:
    """Prepare a head model in a template's topology; a second or so."""
    own, regions = replace(template, model=model), template.regions
    # Ears are too thin for relief along their normals: front and back would cross.
    still = regions | {"eyelids": regions["eyelids"] | regions["ears"]}
    return source_of_map(name, own, head_map(replace(own, regions=still)), levels=levels)


def source_of_map(name: str, template: Template, parts: HeadMap, *, levels: int = 2) -> CorpusSource:
    """Prepare a head model whose parts are known."""
    surface = HeadSurface(parts, levels=levels)
    masks = np.stack(list(template.regions.values()), axis=1).astype(np.float64)
    fine = surface.refined(masks) > 0.5
    topology = CorpusTopology(
        faces=surface.faces,
        regions={key: fine[:, k] for k, key in enumerate(template.regions)},
        anchors=template.anchors,
        n_template_vertices=template.n_vertices,
        template_hash=template.hash,
        levels=levels,
    )
    ears = parts.model.v_template[template.regions["ears"]] * MM_PER_METRE
    to_ear = np.full(len(surface.material), np.inf)
    if len(ears):
        to_ear = ClosestPoints(ears, np.zeros((0, 3), np.int64)).query(surface.material).distance
    return CorpusSource(name, surface, template, topology, to_ear)


def make_subject(
    source: CorpusSource,
    name: str,
    variant: Variant = "full",
    *,
    n_expressions: int = 8,
    samples: SampleSdfConfig = SAMPLES,
    seed: int = 0,
) -> CorpusSubject:
    """Make a person; the same seed, name and source give the same one, in the `plain` variant their plain twin."""
    person = draw_person(source.surface, variant, n_expressions, rng=rng_for(seed, "corpus", name))
    names = tuple(person.expressions)
    skin = np.stack([canonical_skin(source.surface, person, e) for e in names])
    canonical = names.index(OPEN) if OPEN in names else 0
    hair = hair_offset(source.surface, person, skin[canonical], source.to_ear_mm)
    throats = tuple(_throat(source, vertices) for vertices in skin)
    rng = rng_for(seed, "corpus_samples", f"{variant}/{name}")
    drawn = _samples(source.topology, skin[canonical], hair, throats[canonical], samples, rng)
    return CorpusSubject(
        name=name,
        source=source.name,
        variant=variant,
        expressions=names,
        skin=skin.astype(np.float32),
        hair=hair.astype(np.float32),
        anchors=skin[canonical][source.topology.anchors],
        throats=throats,
        samples=drawn,
    )


@dataclass(frozen=True)
class CorpusMember:
    """Who belongs to a corpus."""

    name: str
    source: str
    is_test: bool


def corpus_members(sources: Sequence[str], n_train: int, n_test: int) -> list[CorpusMember]:
    """Give who is trained on and who is kept for tests, sources in turn; more subjects leave the first as they are."""
    counts = [("train", n_train), ("test", n_test)]
    return [
        CorpusMember(f"{role}-{i:04d}", sources[i % len(sources)], role == "test")
        for role, count in counts
        for i in range(count)
    ]


def _throat(source: CorpusSource, skin: Float[ndarray, "n 3"]) -> Plane:
    template, n = source.template, source.template.n_vertices
    regions = template.regions
    plane = throat_plane(skin[:n] * MM_PER_CANONICAL_UNIT, template.faces, regions["neck"], regions["face"])
    return Plane(plane.origin / MM_PER_CANONICAL_UNIT, plane.normal)


def _samples(
    topology: CorpusTopology,
    skin: Float[ndarray, "n 3"],
    hair: Float[ndarray, "n 3"],
    throat: Plane,
    settings: SampleSdfConfig,
    rng: np.random.Generator,
) -> SdfSamples:
    vertices = (skin + hair) * MM_PER_CANONICAL_UNIT
    scan = closed_head(vertices, topology.faces, visible_faces(vertices, topology.faces))
    face_points = skin[topology.regions["face"]] * MM_PER_CANONICAL_UNIT
    throat_mm = Plane(throat.origin * MM_PER_CANONICAL_UNIT, throat.normal)
    return sample_sdf(scan, face_points, throat_mm, _T_CANONICAL_MM, settings, rng=rng)
