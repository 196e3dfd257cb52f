"""The gallery of thousands of scans: time to build, size, and how soon a browser shows and searches it.

`python -m benchmarks.gallery` makes 5,200 scans with small generated pictures, of which 60 differ, in a temporary
folder; needs the extra `dev` and a Chromium.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nphm_core.io.scan_table import read_scan_table
from nphm_core.report.gallery import PICTURES, Gallery, write_gallery
from nphm_core.stages import STAGES
from pipelines.report import gallery_scans
from tests.browser import chromium, page_of
from tests.report.gallery_results import ball, scan_ids_of, write_pictures, write_records, write_table

_N_DIFFERENT = 60
_SEARCH = """async () => {
  const input = document.getElementById("search"), times = [];
  for (const text of ["s1", "s12", "smile", "percentile", "s200/kiss", ""]) {
    const started = performance.now();
    input.value = text;
    await cards.update();
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - started);
  }
  return times;
}"""
_SORT = """async () => {
  const started = performance.now();
  document.getElementById("sort").value = "flame_fit.residual_mm:worst";
  await cards.update();
  await new Promise(requestAnimationFrame);
  return performance.now() - started;
}"""


def make_results(folder: Path, scan_ids: list[str]) -> None:
    """Write records of all scans, and pictures, most of them copies."""
    rng, head = np.random.default_rng(0), ball()
    p95 = np.exp(rng.normal(-1.2, 0.7, len(scan_ids)))
    for k, scan_id in enumerate(scan_ids):
        value = None if k % 97 == 96 else float(p95[k])
        write_records(folder / "results", scan_id, rng, value)
        if k < _N_DIFFERENT:
            write_pictures(folder / "results", scan_id, rng, head, value)
            continue
        source, target = (folder / "results/scans" / name for name in (scan_ids[k % _N_DIFFERENT], scan_id))
        for name in PICTURES:
            if (source / name).is_file() and (value is not None or name == "quality_card.webp"):
                shutil.copyfile(source / name, target / name)
    write_table(folder / "scans.tsv", scan_ids)


def build(folder: Path) -> None:
    """Build the gallery as the command does."""
    scans = gallery_scans(read_scan_table(folder / "scans.tsv"), folder / "results")
    write_gallery(
        folder / "results/report", Gallery("benchmark", "benchmark", scans, tuple(STAGES), {}, ball().faces, 0.5)
    )


def sizes(report: Path) -> dict[str, Any]:
    """Measure the gallery on the disk."""
    files = [path for path in report.rglob("*") if path.is_file()]
    pages = [path for path in files if path.suffix in (".html", ".js", ".css")]
    largest = max(pages, key=lambda path: path.stat().st_size)
    cards = [path.stat().st_size for path in files if path.name == "quality_card.webp"]
    start = [report / "index.html", *(report / "assets").glob("*"), report / "data/index.js", report / "data/rows-0.js"]
    return {
        "files": len(files),
        "total_mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "data_mb": round(sum(path.stat().st_size for path in (report / "data").rglob("*.js")) / 1e6, 1),
        "largest_page_or_script_kb": [str(largest.relative_to(report)), round(largest.stat().st_size / 1e3)],
        "read_before_the_first_cards_kb": round(sum(path.stat().st_size for path in start) / 1e3),
        "largest_card_kb": round(max(cards) / 1e3, 1),
    }


def in_browser(report: Path, n_scans: int) -> dict[str, Any]:
    """Measure how soon the page is there, and how fast it searches and sorts."""
    with chromium() as browser, page_of(browser, report) as page:
        page.page.add_init_script(
            "new MutationObserver((_, o) => { if (document.querySelector('#cards .card')) {"
            " window.firstCard = performance.now(); o.disconnect(); } })"
            ".observe(document, {childList: true, subtree: true})"
        )
        page.open("index.html", "#cards .card")
        page.page.wait_for_function(f"nphm.rows.length === {n_scans} && nphm.complete")
        rows_ms = page.page.evaluate("performance.now()")
        paint = page.page.evaluate(
            "Object.fromEntries(performance.getEntriesByType('paint').map(e => [e.name, e.startTime]))"
        )
        return {
            "first_contentful_paint_ms": round(paint.get("first-contentful-paint", -1)),
            "first_card_ms": round(page.page.evaluate("window.firstCard")),
            "all_rows_at_most_ms": round(rows_ms),
            "search_ms": [round(t) for t in page.page.evaluate(_SEARCH)],
            "sort_by_a_stages_number_ms": round(page.page.evaluate(_SORT)),
            "heap_mb": round(page.page.evaluate("performance.memory.usedJSHeapSize") / 1e6),
            "troubles": page.troubles,
        }


def _timed(work: Callable[[], None]) -> dict[str, float]:
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(cpu_s, 1)}


def main() -> int:
    """Run the benchmark and print its numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--subjects", type=int, default=260, help="subjects")
    parser.add_argument("--expressions", type=int, default=20, help="expressions of each")
    parser.add_argument("--folder", type=Path, help="where to make and keep it (default: a temporary folder)")
    options = parser.parse_args()
    scan_ids = scan_ids_of(options.subjects, options.expressions)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_results(folder, scan_ids)
        out: dict[str, Any] = {"scans": len(scan_ids), "build": _timed(lambda: build(folder))}
        out |= {
            "disk": sizes(folder / "results/report"),
            "browser": in_browser(folder / "results/report", len(scan_ids)),
        }
        print(json.dumps(out, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
