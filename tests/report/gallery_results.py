"""Results as the stages leave them, made in no time: records, small pictures, balls for heads."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nphm_core.geometry.mesh import Mesh
from nphm_core.records import write_record
from nphm_core.report.colour_map import colours_of
from nphm_core.report.gallery import GalleryScan
from nphm_core.report.head_3d import head_script
from nphm_core.report.quality_tiles import RegistrationTiles, card_of, card_of_picture, sheet_of
from nphm_core.spaces import Similarity
from nphm_core.stages import STAGES
from tests.evaluation.conftest import make_ball

EXPRESSIONS = ("neutral", "mouth-open", "smile", "frown", "jaw-left", "cheeks", "kiss", "brows")
REASON = "the 95th percentile of the distance on the face is {:.2f} mm, above 1 mm (evaluate.max_p95_mm)"


def ball(n_levels: int = 3) -> Mesh:
    """Give a ball of 85 mm, its front at +z."""
    return make_ball(85, n_levels)


def drawn_tiles(p95_mm: float, rng: np.random.Generator, height: int = 96) -> RegistrationTiles:
    """Give tiles with a disc in them whose colour is the error's."""
    width = round(0.8 * height)
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 / (0.4 * width) ** 2 + (y - height / 2) ** 2 / (0.42 * height) ** 2 < 1
    shade = np.clip(1.1 - ((x - width / 2) ** 2 + (y - 0.4 * height) ** 2) / height**2, 0, 1)[..., None]

    def tile(colour: Sequence[float]) -> np.ndarray:
        picture = np.full((height, width, 3), 255, np.uint8)
        grain = rng.integers(0, 12, (height, width, 1))
        picture[inside] = np.clip(shade * np.asarray(colour, float) + grain, 0, 255)[inside]
        return picture

    error = colours_of(np.array([p95_mm / 2]), 0.5)[0]
    front = [tile(c) for c in ((200, 160, 140), (92, 148, 219), (219, 212, 201), error, (235, 225, 220))]
    return RegistrationTiles(front, [np.ascontiguousarray(t[:, ::-1]) for t in front], tile(error), True, False)


def write_scan(results: Path, scan_id: str, rng: np.random.Generator, head: Mesh, p95_mm: float | None) -> None:
    """Write what a gallery reads of one scan; without a distance it has failed at `landmarks`."""
    write_records(results, scan_id, rng, p95_mm)
    write_pictures(results, scan_id, rng, head, p95_mm)


def write_records(results: Path, scan_id: str, rng: np.random.Generator, p95_mm: float | None) -> None:
    """Write the records of one scan, and its measures by region."""
    for name in STAGES:
        ok = p95_mm is not None or name in ("ingest", "render")
        status = "ok" if ok else "failed" if name == "landmarks" else "blocked"
        record = {"scan": scan_id, "stage": name, "status": status}
        record |= {"reason": "" if ok else "no face was found in 107 pictures", "warnings": [], "artifacts": {}}
        record["metrics"] = {"residual_mm": round(float(rng.gamma(4, 0.1)), 4), "n_points": int(rng.integers(90, 99))}
        write_record(results, scan_id, name, record if name != "evaluate" else record | _evaluated(p95_mm, rng))
    if p95_mm is not None:
        summary = {"median_mm": round(p95_mm / 3, 4), "p95_mm": round(p95_mm, 4)}
        regions = {name: {"distance": summary, "matched_share": 0.93} for name in ("face", "left_ear")}
        path = results / "scans" / scan_id / "metrics.json"
        path.write_text(json.dumps({"surface": {"regions": regions}}))


def write_pictures(results: Path, scan_id: str, rng: np.random.Generator, head: Mesh, p95_mm: float | None) -> None:
    """Write what a gallery shows of one scan."""
    folder = results / "scans" / scan_id
    if p95_mm is None:
        picture = rng.integers(60, 200, (80, 60, 3)).astype(np.uint8)
        (folder / "quality_card.webp").write_bytes(card_of_picture(picture))
        return
    tiles = drawn_tiles(p95_mm, rng)
    (folder / "quality_card.webp").write_bytes(card_of(tiles))
    (folder / "quality_tiles.webp").write_bytes(sheet_of(tiles))
    distance = np.abs(rng.normal(0, p95_mm / 2, head.n_vertices))
    script = head_script(
        scan_id, head, head.vertices, distance, head.vertices[:, 1] < 50, Similarity.identity(),
        n_scan_vertices=300, colour_max_mm=0.5,
    )  # fmt: skip
    (folder / "quality_3d.js").write_text(script)


def _evaluated(p95_mm: float | None, rng: np.random.Generator) -> dict:
    facts = {"unit": "mm", "stage_warnings": []}
    if p95_mm is None:
        verdict = {"verdict": "failed", "stage": "landmarks", "reasons": ["no face was found in 107 pictures"]}
        return {"status": "ok", "reason": "", "metrics": facts | verdict}
    bad = p95_mm > 1
    numbers = {
        "median_mm": round(p95_mm / 3, 4), "p95_mm": round(p95_mm, 4),
        "matched_share": round(float(rng.uniform(0.8, 1)), 4),
        "covered_share": 0.97, "scan_median_mm": round(p95_mm / 2, 4), "linear_fit_mm": 0.4,
        "landmark_mm": round(float(rng.uniform(1, 4)), 3), "folded_faces": int(rng.integers(0, 9)),
    }  # fmt: skip
    verdict = {"verdict": "suspicious" if bad else "ok", "stage": "evaluate" if bad else ""}
    verdict["reasons"] = [REASON.format(p95_mm)] if bad else []
    return {"status": "ok", "reason": "", "metrics": facts | numbers | verdict}


def write_table(path: Path, scan_ids: Sequence[str]) -> None:
    """Write a scan table that names these scans."""
    neutrals = ["closed" if scan_id.endswith("neutral") else "" for scan_id in scan_ids]
    cells = [
        (*scan_id.split("/"), neutral, f"{scan_id}.ply") for scan_id, neutral in zip(scan_ids, neutrals, strict=True)
    ]
    path.write_text("\n".join(["subject\texpression\tneutral\tpath", *("\t".join(row) for row in cells)]) + "\n")


def scan_ids_of(n_subjects: int, n_expressions: int) -> list[str]:
    """Give ids for so many subjects and expressions."""
    names = [EXPRESSIONS[k % 8] + (f"-{k // 8 + 1}" if k >= 8 else "") for k in range(n_expressions)]
    return [f"s{subject:03d}/{name}" for subject in range(1, n_subjects + 1) for name in names]


def bare_scan(scan_id: str = "s01/smile", verdict: str = "ok", **more) -> GalleryScan:
    """Give a scan for tests of order and words."""
    p95 = more.pop("p95_mm", None)
    records = {} if p95 is None else {"evaluate": {"metrics": {"p95_mm": p95}}}
    facts = {"stage": "", "reasons": (), "folder": Path("none"), "records": records}
    return GalleryScan(scan_id, verdict, **facts | more)
