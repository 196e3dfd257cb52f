"""The NPHM data-set layout: folders, frames and units that other people's training code reads.

`DATA/<subject>/<expression>/` holds scan.ply, flame.ply and registration.ply in canonical units (FLAME's metres times
four), and s.npy, R.npy, t.npy with x_canonical = s R x_raw + t, where raw is metric space in mm. Ids are numbers with
three digits. `neutrals_open.json` and `neutrals_closed.json` name each subject's neutral, -1 where there is none. What
NPHM's code keeps beside itself (anchor vertices, their means, the face mask) depends on the template and lies in
`assets/`. After the data manager of Giebenhain et al. (CVPR 2023), whose layout is public.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nphm_core.exports.registered_scan import RegisteredScan, moved_mesh
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.files import atomic_write, write_json
from nphm_core.io.ply import write_ply
from nphm_core.template.template import Template

_NEUTRALS = ("closed", "open")


@dataclass(frozen=True)
class NphmNumbers:
    """The numbers of subjects and expressions in the layout, by our names."""

    subject: dict[str, int]
    expression: dict[str, int]
    """One number for a name, over all subjects; most closed neutrals are 0 and most open ones 1, as in NPHM."""

    def folder(self, root: Path, scan: RegisteredScan) -> Path:
        """Give the folder of a scan."""
        return root / "DATA" / f"{self.subject[scan.subject]:03d}" / f"{self.expression[scan.expression]:03d}"


def nphm_numbers(scans: Iterable[tuple[str, str, str]]) -> NphmNumbers:
    """Number subjects and expressions, given as (subject, expression, neutral) of every scan of a run.

    Names that are numbers already keep them, if all are and no two are the same number. Ask with all scans of the run
    and not those of one export, so that another choice of scans gives the same numbers.
    """
    rows = list(scans)
    kinds: dict[str, Counter[str]] = {}
    for _, expression, neutral in rows:
        kinds.setdefault(expression, Counter())[neutral] += 1
    most = {neutral: max(kinds, key=lambda name: (kinds[name][neutral], name), default="") for neutral in _NEUTRALS}
    leading = [name for kind, name in most.items() if name and kinds[name][kind]]
    order = [*dict.fromkeys(leading), *sorted(set(kinds) - set(leading))]
    return NphmNumbers(_numbered(sorted({row[0] for row in rows}), first=1), _numbered(order, first=0))


def write_nphm_scan(root: Path, scan: RegisteredScan, template: Template, numbers: NphmNumbers) -> Path:
    """Write the six files of one scan and give their folder."""
    folder = numbers.folder(root, scan)
    T = scan.T_canonical_metric
    write_ply(folder / "scan.ply", moved_mesh(scan.read_scan(), T))
    write_ply(folder / "flame.ply", Mesh(T.apply(scan.fit_vertices_mm), template.faces))
    write_ply(folder / "registration.ply", moved_mesh(scan.registered, T))
    for name, value in (("s", np.array(T.scale)), ("R", T.rotation), ("t", T.translation)):
        write_npy(folder / f"{name}.npy", value)
    return folder


def write_neutrals(root: Path, scans: Sequence[tuple[str, str, str]], numbers: NphmNumbers) -> None:
    """Write which expression is each subject's open and closed neutral, beside `DATA`."""
    subjects = sorted({row[0] for row in scans}, key=lambda name: numbers.subject[name])
    for kind in _NEUTRALS:
        found = {subject: numbers.expression[name] for subject, name, neutral in scans if neutral == kind}
        write_json(root / f"neutrals_{kind}.json", {str(numbers.subject[s]): found.get(s, -1) for s in subjects})


def write_assets(
    root: Path,
    template: Template,
    anchors: Sequence[Float[ndarray, "39 3"]],
    face: Bool[ndarray, " n_registered"],
) -> None:
    """Write what NPHM's code reads from its own folder of assets, for this template.

    `anchors` are those of the canonical neutrals in canonical units, `face` marks the registered mesh's vertices on
    face and ears.
    """
    write_npy(root / "assets" / "lm_inds_39.npy", template.anchors)
    write_npy(root / "assets" / "face.npy", face)
    if anchors:
        write_npy(root / "assets" / "anchors_39.npy", np.mean(anchors, axis=0).astype(np.float32))


def write_npy(path: Path, value: ndarray) -> None:
    """Write one array without pickle."""
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, value, allow_pickle=False)


def _numbered(names: Sequence[str], *, first: int) -> dict[str, int]:
    if all(name.isdecimal() for name in names) and len({int(name) for name in names}) == len(names):
        return {name: int(name) for name in names}
    return {name: k for k, name in enumerate(names, start=first)}
