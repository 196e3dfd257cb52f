"""Records: what a stage did to a scan, and what it wrote. Snakemake tracks these files.

A record says ok, failed or blocked, why, and the size and digest of each artifact. It holds no time and no host, so
that the same work gives the same bytes and what depends on it is not made again. Because Snakemake removes a rule's
outputs before it runs the rule, a hidden copy of the record stays beside it: with it a stage that is asked again for
what it has already made sees that, and stops. Imported by the Snakefile: standard library only.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nphm_core.durable import atomic_write
from nphm_core.stages import STAGES, TEMPLATE_VERSION, record_path
from nphm_core.time_limit import deserves_more_time


def digest_of(value: Any) -> str:
    """Give the SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_artifact(path: Path) -> dict[str, Any]:
    """Give what a record keeps of a file: its size and digest."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def result_digest(record: dict[str, Any]) -> str:
    """Give the digest of what later stages can see of a record."""
    return digest_of({key: record.get(key) for key in ("status", "metrics", "artifacts", "reason")})


def read_record(results: Path, scan_id: str, stage: str) -> dict[str, Any] | None:
    """Read a stage's record of a scan; None if there is none, or a damaged one."""
    return _read(Path(record_path(str(results), scan_id, stage)))


def write_record(results: Path, scan_id: str, stage: str, record: dict[str, Any]) -> None:
    """Write a record and its hidden copy, each complete or not at all; what is known of earlier trouble goes."""
    write_hidden_record(results, scan_id, stage, record)
    _write(Path(record_path(str(results), scan_id, stage)), record)
    _trouble(results, scan_id, stage).unlink(missing_ok=True)


def write_trouble(results: Path, scan_id: str, stage: str, text: str) -> None:
    """Keep why a stage has no record, where that was the machine's fault; on a full disk there is no room for it."""
    with contextlib.suppress(OSError):
        _trouble(results, scan_id, stage).write_text(text)


def read_trouble(results: Path, scan_id: str, stage: str) -> str:
    """Read why a stage has no record; empty if that is not known."""
    try:
        return _trouble(results, scan_id, stage).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def stage_lock(results: Path, scan_id: str, stage: str) -> Path:
    """Give the file that is locked while a process works on a stage of a scan."""
    return Path(record_path(str(results), scan_id, stage)).with_name(f".{stage}.lock")


def _trouble(results: Path, scan_id: str, stage: str) -> Path:
    return Path(record_path(str(results), scan_id, stage)).with_name(f".{stage}.trouble")


def _read(path: Path) -> dict[str, Any] | None:
    """Read a record; None if it is missing, cut short, or no record at all."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


_PARTS: tuple[tuple[str, Any], ...] = (("artifacts", {}), ("metrics", {}), ("reason", ""))


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or record.get("status") not in ("ok", "failed", "blocked"):
        return False
    artifacts, metrics, reason = (record.get(name, empty) for name, empty in _PARTS)
    if not (isinstance(artifacts, dict) and isinstance(metrics, dict) and isinstance(reason, str)):
        return False
    # Names of files in the scan's folder, never paths that lead out of it.
    return all(
        Path(name).name == name and isinstance(facts, dict) and facts.keys() >= {"bytes", "sha256"}
        for name, facts in artifacts.items()
    )


def write_hidden_record(results: Path, scan_id: str, stage: str, record: dict[str, Any]) -> None:
    """Write the hidden copy alone, for what is made before its turn: the stage will find it current."""
    _write(_hidden(Path(record_path(str(results), scan_id, stage))), record)


def _write(path: Path, record: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def hidden_record(results: Path, scan_id: str, stage: str) -> dict[str, Any] | None:
    """Read the hidden copy of a record; None if there is none, or a damaged one."""
    return _read(_hidden(Path(record_path(str(results), scan_id, stage))))


def current_record(results: Path, scan_id: str, stage: str, key: str) -> dict[str, Any] | None:
    """Give the hidden copy of a record if it was made from the same inputs and every artifact is still as it says."""
    record = hidden_record(results, scan_id, stage)
    if record is None or record.get("key") != key or deserves_more_time(record):
        return None
    folder = scan_folder(results, scan_id)
    for name, facts in record["artifacts"].items():
        if not (folder / name).is_file() or describe_artifact(folder / name) != facts:
            return None
    return record


def scan_folder(results: Path, scan_id: str) -> Path:
    """Give the folder that holds everything of one scan."""
    return Path(results) / "scans" / scan_id


def template_folder(cache: str, settings: dict[str, Any]) -> str:
    """Give the folder of a template in the cache: another head model, setting or version, another folder.

    `settings` is the config's section `template`, as JSON.
    """
    source = settings["source"]
    name = "embedded" if source == "embedded" else Path(source).stem
    return f"{cache}/templates/{name}-{digest_of([settings, TEMPLATE_VERSION])[:8]}"


def damaged_artifacts(results: str, scan_id: str, stage: str) -> list[str]:
    """List artifacts of a stage that its record names and that are gone or have another size.

    A record that cannot be read, or that ran out of less time than it would have now, stands in the list itself.
    """
    path = Path(record_path(results, scan_id, stage))
    record = _read(path)
    if record is None:
        return [path.name] if path.exists() else []
    if deserves_more_time(record):
        return [path.name]
    folder = scan_folder(Path(results), scan_id)
    return [name for name, facts in record["artifacts"].items() if _size(folder / name) != facts["bytes"]]


def stale_records(results: str, scan_ids: Iterable[str]) -> list[str]:
    """List the records, of all scans and stages, whose artifacts are gone or have another size."""
    return [
        record_path(results, scan_id, stage)
        for scan_id in scan_ids
        for stage in STAGES
        if damaged_artifacts(results, scan_id, stage)
    ]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}")
