"""Records: what a stage did to a scan, and what it wrote. Snakemake tracks these files.

A record says ok, failed or blocked, why, and the size and digest of each artifact. It holds no time and no host, so
that the same work gives the same bytes and what depends on it is not made again. Because Snakemake removes a rule's
outputs before it runs the rule, a hidden copy of the record stays beside it: with it a stage that is asked again for
what it has already made sees that, and stops. The hidden copy also holds, under `seen`, by what status the files were
known when their contents were digested. Imported by the Snakefile: standard library only.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nphm_core.durable import atomic_write
from nphm_core.stages import TEMPLATE_VERSION, Stage, record_path
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


def signature(path: Path) -> list[int] | None:
    """Give a file's inode, size and times; None if there is none. The last time (ctime) cannot be set by a program."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def stage_key(
    stage: Stage,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    *,
    template: str | None,
    source: Mapping[str, Any] | None,
) -> str:
    """Give the digest of everything that a stage's result for a scan depends on.

    `settings` is the stage's section in full, `inputs` holds `result_digest` for each record it reads, `template` is
    the digest of template.json, and `source` is what `ingest` reads: the table's row, and digests of its files.
    """
    facts: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "settings": settings,
        "seed": seed if stage.uses_seed else None,
        "inputs": inputs,
    }
    if stage.uses_template:
        facts["template"] = [TEMPLATE_VERSION, template]
    if source is not None:
        facts["source"] = source
    return digest_of(facts)


def without_seen(record: Mapping[str, Any]) -> dict[str, Any]:
    """Give what is tracked of a record: what the same work gives again, on any machine."""
    return {key: value for key, value in record.items() if key != "seen"}


def result_digest(record: dict[str, Any]) -> str:
    """Give the digest of what later stages can see of a record."""
    return digest_of({key: record.get(key) for key in ("status", "metrics", "artifacts", "reason")})


def write_unit(path: Path, results: Path, stage: str, scan_ids: Iterable[str]) -> None:
    """Write what Snakemake tracks of a job of several scans: the digest of what came of each. Each needs its record."""
    _write(path, {scan_id: result_digest(read_record(results, scan_id, stage) or {}) for scan_id in scan_ids})


def read_unit(path: Path) -> dict[str, Any]:
    """Read what `write_unit` wrote; nothing if it is missing or damaged."""
    unit = _read_json(path)
    return unit if isinstance(unit, dict) else {}


def read_record(results: Path, scan_id: str, stage: str) -> dict[str, Any] | None:
    """Read a stage's record of a scan; None if there is none, or a damaged one."""
    return _read(Path(record_path(str(results), scan_id, stage)))


def write_record(results: Path, scan_id: str, stage: str, record: dict[str, Any]) -> None:
    """Write a record and its hidden copy, each complete or not at all; what is known of earlier trouble goes."""
    write_hidden_record(results, scan_id, stage, record)
    _write(Path(record_path(str(results), scan_id, stage)), without_seen(record))
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
    record = _read_json(path)
    return record if _is_record(record) else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


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
    seen = record.get("seen", {}) | {"record": digest_of(without_seen(record))}
    _write(_hidden(Path(record_path(str(results), scan_id, stage))), dict(record) | {"seen": seen})


def _write(path: Path, record: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def hidden_record(results: Path, scan_id: str, stage: str) -> dict[str, Any] | None:
    """Read the hidden copy of a record; None if there is none, or a damaged one."""
    record = _read(_hidden(Path(record_path(str(results), scan_id, stage))))
    seen = record.get("seen") if record else None
    # Nothing else guards it: a record that came to harm would else pass for the result of its key.
    if record is None or not isinstance(seen, dict) or seen.get("record") != digest_of(without_seen(record)):
        return None
    return record


def is_retried(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is that of a stage which another run tries again although nothing changed."""
    return bool(record.get("was_killed")) or deserves_more_time(record)


def current_record(results: Path, scan_id: str, stage: str, key: str) -> dict[str, Any] | None:
    """Give the hidden copy of a record if it was made from the same inputs and every artifact is still as it says.

    Contents are digested where a file's status is not the one it was last known by.
    """
    record = hidden_record(results, scan_id, stage)
    if record is None or record.get("key") != key or is_retried(record):
        return None
    folder, seen = scan_folder(results, scan_id), record.get("seen", {})
    artifacts = {name: signature(folder / name) for name in record["artifacts"]}
    for name, status in artifacts.items():
        is_as_seen = status is not None and status == seen.get("artifacts", {}).get(name)
        if status is None or not (is_as_seen or describe_artifact(folder / name) == record["artifacts"][name]):
            return None
    return record | {"seen": seen | {"artifacts": artifacts}}


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


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}")
