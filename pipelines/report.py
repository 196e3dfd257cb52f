"""Write the quality gallery: one page for all scans, the worst first, with pictures, measures, and 3D views.

It opens from a disk in any browser, without a network. Verdicts given in it download as a TSV that the config takes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from nphm_core.config import SubdivideConfig
from nphm_core.errors import NphmError
from nphm_core.evaluation.fine_template import view_topology
from nphm_core.io.files import read_json
from nphm_core.io.scan_table import ScanRow, ScanTable
from nphm_core.io.verdicts import PersonVerdict, read_judged_table, read_verdicts
from nphm_core.records import digest_of, read_record, result_digest, scan_folder
from nphm_core.report.gallery import Gallery, GalleryScan, write_gallery
from nphm_core.stages import STAGES
from nphm_core.template.template import read_template
from pipelines.stage_command import settings_json
from pipelines.summary import SummaryRow, summary_row


def gallery_scans(table: ScanTable, results: Path) -> list[GalleryScan]:
    """Collect what the stages wrote of every scan, of excluded ones from before they were."""
    included = [_scan(row, results, summary_row(row, results)) for row in table.rows]
    return included + [_scan(row, results, None) for row in table.excluded]


def said_before(verdicts: tuple[PersonVerdict, ...]) -> dict[str, dict[str, str]]:
    """Give the verdicts of the TSV as the gallery wants them."""
    return {v.scan_id: {"verdict": v.verdict, "note": v.note, "result": v.result} for v in verdicts}


def _scan(row: ScanRow, results: Path, told: SummaryRow | None) -> GalleryScan:
    records = {name: record for name in STAGES if (record := read_record(results, row.scan_id, name)) is not None}
    folder = scan_folder(results, row.scan_id)
    evaluated = records.get("evaluate")
    metrics = folder / "metrics.json"
    regions = read_json(metrics).get("surface", {}).get("regions", {}) if evaluated and metrics.is_file() else {}
    if told is None:
        verdict, stage, reasons, unit = "excluded", "", (row.reason or "no reason given",), row.unit
    else:
        verdict, stage, unit = told.verdict, told.stage, told.unit
        listed = evaluated["metrics"].get("reasons") if evaluated and evaluated["status"] == "ok" else None
        reasons = tuple(listed) if listed is not None else (told.reason,) if told.reason else ()
    result = result_digest(evaluated)[:12] if evaluated else ""
    return GalleryScan(row.scan_id, verdict, stage, reasons, folder, row.neutral, unit, records, regions, result)


def _title(table: Path) -> str:
    # Most tables are called scans.tsv: their folder says more.
    path = table.resolve()
    return path.parent.name if path.stem == "scans" else path.stem


def _topology(options: argparse.Namespace) -> Any:
    if options.template is None:
        return None
    settings = SubdivideConfig.model_validate(settings_json(options.subdivide))
    return view_topology(read_template(options.template), settings)[1]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.report", description=__doc__)
    parser.add_argument("--table", required=True, type=Path, help="scan table, or folder in the NPHM data-set layout")
    parser.add_argument("--verdicts", type=Path, help="verdicts given in an earlier gallery")
    parser.add_argument("--results", required=True, type=Path, help="folder of the results")
    parser.add_argument("--template", type=Path, help="folder of the template; 3D views need it")
    parser.add_argument("--subdivide", default="{}", help="JSON of the config's section `subdivide`")
    parser.add_argument("--colour-max-mm", type=float, default=0.5, help="the config's evaluate.colour_max_mm")
    parser.add_argument("--out", required=True, type=Path, help="folder of the gallery; what lies in it is replaced")
    options = parser.parse_args()
    try:
        table = read_judged_table(options.table, options.verdicts)
        verdicts = read_verdicts(options.verdicts) if options.verdicts else ()
        gallery = Gallery(
            title=_title(options.table),
            report_id=digest_of(str(options.table.resolve()))[:16],
            scans=gallery_scans(table, options.results),
            stages=tuple(STAGES),
            verdicts=said_before(verdicts),
            faces=_topology(options),
            colour_max_mm=options.colour_max_mm,
        )
        write_gallery(options.out, gallery)
    except NphmError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"gallery of {len(gallery.scans)} scans: open {options.out / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
