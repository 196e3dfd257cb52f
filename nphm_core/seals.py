"""Seals: which stages of which scans still are as they were made, told from little more than the files' status.

A stage's result is current if its key (everything that it depends on, `nphm_core.records.stage_key`) is what it would
be now, and its record and artifacts are the files that it wrote. That they are is told by inode, size and both times:
no program can set the time of the last change (ctime), so a file whose content was changed and whose size and time
stamp were restored is seen. Of a file with the size on record and another status the content is read, once for each
status (`nphm_core.known_contents`). A subject's seal is one digest of the status of all files of its scans, kept after
all their stages were found current once; while it holds, their records are not read again. A seal decides only what
enters the plan: a stage that is asked for what it has made looks itself. Imported by the Snakefile: standard library
only.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from nphm_core.durable import atomic_write
from nphm_core.known_contents import KnownContents
from nphm_core.records import (
    digest_of,
    hidden_record,
    is_retried,
    read_record,
    read_unit,
    result_digest,
    scan_folder,
    signature,
    stage_key,
    without_seen,
)
from nphm_core.stages import STAGES, Stage, record_path

_VERSION = 1
"""Raised when seals of an earlier kind must not count."""
_HIDDEN = frozenset(f".{stage}.json" for stage in STAGES)


@dataclass(frozen=True)
class Wanted:
    """What results are to be made with."""

    settings: Mapping[str, Mapping[str, Any]]
    """The config's section of each stage, as JSON."""
    seed: int
    template: str | None
    """Digest of the template; None if it is still to be made."""

    @cached_property
    def contexts(self) -> dict[str, str]:
        """Digest of what decides a stage's result beside its inputs, by stage."""
        return {name: self._context(stage)[:16] for name, stage in STAGES.items()}

    def _context(self, stage: Stage) -> str:
        seed, template = self.seed if stage.uses_seed else None, self.template if stage.uses_template else None
        return digest_of([stage.version, self.settings[stage.name], seed, template])


@dataclass(frozen=True)
class Todo:
    """What is to be done for a scan: the stages to run."""

    changed: frozenset[str] = frozenset()
    """Their results will be others, or there are none: what reads them runs too, in other scans as well."""
    lost: frozenset[str] = frozenset()
    """They will get back what they had: no reason to run another scan's stages."""

    @property
    def stages(self) -> frozenset[str]:
        """All of them."""
        return self.changed | self.lost


Place = tuple[str, str]
"""A scan and a stage."""


class Inspection:
    """One look at all scans of a results folder, subject by subject: only scans of one subject read each other's."""

    def __init__(
        self,
        results: str,
        wanted: Wanted,
        rows: Mapping[str, Mapping[str, Any]],
        units: Mapping[str, str] | None = None,
        *,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Take a row's facts (`row_facts`) for each scan, and the unit of each that shares one with others.

        Nothing is read before it is asked for; `tell` is called once before the contents of files are.
        """
        self._tell: Callable[[], None] | None = tell
        self._contents: dict[str, KnownContents] = {}
        self._results, self._wanted, self._rows, self._units = Path(results), wanted, rows, units or {}
        self._todo: dict[str, Todo] = {}
        self._seals: dict[str, tuple[str, dict[str, str]]] = {}
        self._unsettled: set[str] = set()
        self._subjects: dict[str, list[str]] = {}
        for scan_id, row in rows.items():
            scans = self._subjects.setdefault(scan_id.split("/")[0], [])
            # The scan whose fit the others take is looked at before them.
            scans.insert(0 if row.get("identity_scan") == scan_id else len(scans), scan_id)

    @cached_property
    def _old(self) -> dict[str, tuple[str, dict[str, str]]]:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            data = json.loads(self._path.read_bytes())
            if data["version"] == _VERSION:
                return {subject: (seal, dict(data["contexts"][k])) for subject, (seal, k) in data["subjects"].items()}
        return {}

    @property
    def _path(self) -> Path:
        return self._results / ".seals.json"

    def todo(self, scan_id: str) -> Todo:
        """Tell which stages of a scan are to be run."""
        if scan_id not in self._todo:
            self._todo |= self._look(scan_id.split("/")[0])
        return self._todo[scan_id]

    def keep(self) -> None:
        """Write the seals of all subjects that were looked at and found whole, and what is known of contents."""
        for contents in self._contents.values():
            contents.keep()
        contexts: dict[str, int] = {}
        subjects = {
            subject: [seal, contexts.setdefault(json.dumps(context, sort_keys=True), len(contexts))]
            for subject, (seal, context) in sorted(self._seals.items())
        }
        data = {"version": _VERSION, "contexts": [json.loads(text) for text in contexts], "subjects": subjects}
        text = json.dumps(data, indent=0) + "\n"
        # Where it cannot be written the next start looks again.
        with contextlib.suppress(OSError):
            if not self._path.is_file() or self._path.read_text() != text:
                with atomic_write(self._path) as temporary:
                    temporary.write_text(text)

    def _look(self, subject: str) -> dict[str, Todo]:
        # Before the records are read: what changes meanwhile breaks the seal.
        seal = self._seal(subject)
        old = self._old.get(subject)
        if old and old[0] == seal:
            self._seals[subject] = old
            scans, new = self._subjects[subject], self._wanted.contexts
            differing = {(scan_id, name) for name in new if old[1].get(name) != new[name] for scan_id in scans}
            return self._spread(subject, differing, set())
        todo = self._read(subject)
        if subject not in self._unsettled and not any(scan.stages for scan in todo.values()):
            self._seals[subject] = seal, self._wanted.contexts
        return todo

    def _read(self, subject: str) -> dict[str, Todo]:
        changed, lost, digests, is_settled = set[Place](), set[Place](), dict[Place, str](), True
        for name, stage in STAGES.items():
            for scan_id in self._subjects[subject]:
                hidden = hidden_record(self._results, scan_id, name)
                if (
                    hidden is None
                    or is_retried(hidden)
                    or hidden.get("key") != self._key(stage, scan_id, hidden, digests)
                ):
                    changed.add((scan_id, name))
                elif not self._is_tracked(scan_id, name, hidden) or not self._is_whole(scan_id, hidden):
                    lost.add((scan_id, name))
                if hidden is not None:
                    digests[scan_id, name] = result_digest(hidden)
                    is_settled &= "time_limit_s" not in hidden
        if not is_settled:
            # Whether a scan deserves more time is asked at every start.
            self._unsettled.add(subject)
        return self._spread(subject, changed, lost)

    def _spread(self, subject: str, changed: set[Place], lost: set[Place]) -> dict[str, Todo]:
        """Add what follows: in its scan after everything, in the subject's others after what changed."""
        for name, stage in STAGES.items():
            for scan_id in self._subjects[subject]:
                own = {(scan_id, needed) for needed in stage.needs}
                if changed & {*own, *self._needed_of_others(stage, scan_id)}:
                    changed.add((scan_id, name))
                elif lost & own:
                    lost.add((scan_id, name))
        lost -= changed
        return {
            scan_id: Todo(*(frozenset(name for scan, name in places if scan == scan_id) for places in (changed, lost)))
            for scan_id in self._subjects[subject]
        }

    def _needed_of_others(self, stage: Stage, scan_id: str) -> Iterator[Place]:
        for role, names in (("identity", stage.needs_identity), ("canonical", stage.needs_canonical)):
            other = self._rows[scan_id].get(f"{role}_scan") if names else None
            if other and other != scan_id:
                yield from ((other, name) for name in names)

    def _key(self, stage: Stage, scan_id: str, hidden: Mapping[str, Any], digests: Mapping[Place, str]) -> str | None:
        """Give what the key of a stage's result would be now; None if an input is missing or has changed."""
        needed = [*((scan_id, name) for name in stage.needs), *self._needed_of_others(stage, scan_id)]
        template = self._wanted.template if stage.uses_template else None
        if any(place not in digests for place in needed) or (stage.uses_template and template is None):
            return None
        source = None
        if stage.name == "ingest":
            source = self._source(scan_id, hidden["seen"].get("sources", {}))
            if source is None:
                return None
        inputs = {f"{other}:{name}": digests[other, name] for other, name in needed}
        settings = self._wanted.settings[stage.name]
        return stage_key(stage, settings, self._wanted.seed, inputs, template=template, source=source)

    def _source(self, scan_id: str, seen: Mapping[str, Any]) -> dict[str, Any] | None:
        files, contents = source_files(self._rows[scan_id]), self._contents_of(scan_id)
        if seen.keys() != files.keys():
            return None
        for name, (status, digest) in seen.items():
            if not contents.is_as_seen(files[name], status, status and status[1], digest):
                return None
        return {"row": self._rows[scan_id], "files": {name: digest for name, (_, digest) in seen.items()}}

    def _is_tracked(self, scan_id: str, stage: str, hidden: Mapping[str, Any]) -> bool:
        """Tell whether the files that Snakemake tracks say what the hidden copy does."""
        if read_record(self._results, scan_id, stage) != without_seen(hidden):
            return False
        unit = self._units.get(scan_id)
        return unit is None or self._unit(unit, stage).get(scan_id) == result_digest(dict(hidden))

    @lru_cache  # noqa: B019 - an inspection ends with the process
    def _unit(self, unit: str, stage: str) -> dict[str, Any]:
        return read_unit(Path(record_path(str(self._results), unit, stage)))

    def _is_whole(self, scan_id: str, hidden: Mapping[str, Any]) -> bool:
        folder, seen = scan_folder(self._results, scan_id), hidden["seen"].get("artifacts", {})
        contents = self._contents_of(scan_id)
        return all(
            contents.is_as_seen(folder / name, seen.get(name) or [], facts["bytes"], facts["sha256"])
            for name, facts in hidden["artifacts"].items()
        )

    def _contents_of(self, scan_id: str) -> KnownContents:
        """Give what is known of the contents of the subject's files; those of a look are kept with its seals."""
        subject = scan_id.split("/")[0]
        if subject not in self._contents:
            path = self._results / ".contents" / f"{subject}.json"
            self._contents[subject] = KnownContents(path, self._tell_once)
        return self._contents[subject]

    def _tell_once(self) -> None:
        if self._tell is not None:
            tell, self._tell = self._tell, None
            tell()

    def _seal(self, subject: str) -> str:
        """Give the digest of the status of all that a subject's scans read and have."""
        scans = self._subjects[subject]
        lines = [
            f"{unit} {stage} {signature(Path(record_path(str(self._results), unit, stage)))}"
            for unit in sorted({self._units[scan_id] for scan_id in scans if scan_id in self._units})
            for stage in STAGES
        ]
        for scan_id in sorted(scans):
            folder = scan_folder(self._results, scan_id)
            lines += [json.dumps(self._rows[scan_id], sort_keys=True), *_status(folder), *_status(folder / "stages")]
            lines += [f"{key} {signature(path)}" for key, path in source_files(self._rows[scan_id]).items()]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def source_files(row: Mapping[str, Any]) -> dict[str, Path]:
    """Give the files of a scan as delivered, by their column in the scan table."""
    return {key: Path(str(row[key])) for key in ("path", "texture", "mask", "landmarks") if row.get(key)}


def _line(entry: os.DirEntry[str]) -> str:
    status = entry.stat(follow_symlinks=False)
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _status(folder: Path) -> list[str]:
    """Give a line for each file in a folder, if there is one, but those of a stage at work."""
    lines = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if not entry.is_dir() and (name[0] != "." or name in _HIDDEN):
                lines.append(f"{name} {signature(Path(entry.path)) if entry.is_symlink() else _line(entry)}")
    lines.sort()
    return lines
