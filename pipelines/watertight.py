"""Check scan and registered mesh as surfaces, and close the scan so that distances can be signed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nphm_core.config import WatertightConfig
from nphm_core.geometry.mesh import Mesh
from nphm_core.geometry.quality import measure_quality
from nphm_core.io.files import write_json
from nphm_core.io.meshes import read_mesh, write_mesh
from nphm_core.io.ply import read_ply, write_ply
from nphm_core.registration.watertight import (
    ClosedScan,
    SurfaceCheck,
    check_surface,
    choose_fills,
    closed_by_filling,
    closed_by_poisson,
    is_closed,
    open_scan,
    warnings_of,
)
from pipelines.repair_mesh import TIMEOUT_SIGNAL, TROUBLE_EXIT
from pipelines.stage_command import Job, stage_command
from pipelines.stage_inputs import metric_mesh


def process(job: Job) -> dict[str, Any]:
    """Write the closed scan and the report."""
    scan = metric_mesh(job)
    registered = read_mesh(job.folder / "registered.ply", template_hash=job.template.hash)
    model = job.template.model
    checks = {
        "scan": check_surface(scan.vertices, scan.faces),
        "registered": check_surface(registered.vertices, registered.faces),
    }
    closed, trouble = _closed_scan(scan, checks["scan"], job.settings, job.out)
    warnings = trouble + warnings_of(closed, checks["registered"], measure_quality(model.v_template, model.faces))
    facts = {
        "scan": job.scan_id,
        "space": "metric",
        "unit": "mm",
        "stage": job.stage.name,
        "stage_version": job.stage.version,
    }
    outcome = {
        "method": closed.method,
        "n_scan_faces": closed.n_scan_faces,
        "n_fill_faces": len(closed.faces) - closed.n_scan_faces,
        "is_watertight": is_closed(closed.faces),
        "sign_error": closed.sign_error,
    }
    write_mesh(job.out / "scan_closed.ply", Mesh(closed.vertices, closed.faces), facts | outcome)
    report = {name: check.to_json() for name, check in checks.items()} | {"scan_closed": outcome}
    write_json(job.out / "watertight_report.json", report | {"warnings": warnings})
    return report | {"warnings": warnings}


def _closed_scan(
    scan: Mesh, check: SurfaceCheck, settings: WatertightConfig, folder: Path
) -> tuple[ClosedScan, list[str]]:
    """Close the scan, or leave it open and say why."""
    if check.quality.is_watertight:
        return replace(open_scan(scan.vertices, scan.faces), method="closed"), []
    options = ["--max-hole-edges", str(settings.max_hole_edges), "--poisson-depth", str(settings.poisson_depth)]
    if check.quality.is_manifold:
        options.append("--is-manifold")
    repaired, reason = _repaired(scan, options, settings.repair_timeout_s, folder)
    closed = None
    if repaired is not None and scan.n_faces:
        closed = closed_by_filling(scan.vertices, scan.faces, repaired)
    elif repaired is not None:
        closed = closed_by_poisson(scan.vertices, repaired, max_fill_spacings=settings.max_fill_spacings)
    if closed is not None:
        return choose_fills(closed), []
    reason = reason or "its result does not fit the scan"
    return open_scan(scan.vertices, scan.faces), [f"the scan could not be closed ({reason}); it was left open"]


def _repaired(scan: Mesh, options: list[str], timeout_s: float, folder: Path) -> tuple[Mesh | None, str]:
    before, after = folder / ".before.ply", folder / ".after.ply"
    write_ply(before, Mesh(scan.vertices, scan.faces, None if scan.n_faces else scan.normals), exact=True)
    command = [sys.executable, "-m", "pipelines.repair_mesh", str(before), str(after), *options]
    command += ["--cpu-limit-s", str(timeout_s)]
    # The command must be found wherever this one was started.
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0 and after.is_file():
            return read_ply(after).mesh, ""
        if done.returncode == -TIMEOUT_SIGNAL:
            return None, f"the repair took more than {timeout_s:g} CPU seconds"
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        if done.returncode == TROUBLE_EXIT or -done.returncode in (signal.SIGKILL, signal.SIGTERM, signal.SIGBUS):
            # No fault of the scan: without this a full disk would leave it open for good.
            raise OSError(f"the repair of the scan was stopped with code {done.returncode}: {last}")
        return None, f"the repair ended with code {done.returncode}: {last}"
    finally:
        before.unlink(missing_ok=True)
        after.unlink(missing_ok=True)


if __name__ == "__main__":
    stage_command("watertight", process)
