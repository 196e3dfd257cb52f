"""Contents of files whose status is not the one that they were digested by: read once, then known by the new status.

Other permissions, a second name, a copy, a backup that was put back: all that gives a file another inode or another
time of its last change (ctime), and leaves its content. So a file of the size that is on record is digested where a
plan asks for it, and its digest is kept, under its status, in a file of the results folder. It counts for that status
alone: a later change of the content changes the status again. Imported by the Snakefile: standard library only.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nphm_core.durable import atomic_write
from nphm_core.records import file_digest, signature


class KnownContents:
    """What is known of the contents of a subject's files."""

    def __init__(self, path: Path, tell: Callable[[], None]) -> None:
        """Take the file that holds what is known, and what is called before a content is read. Nothing is read yet."""
        self._path, self._tell = path, tell
        self._old: dict[str, Any] | None = None
        self._used: dict[str, list[Any]] = {}

    def is_as_seen(self, path: Path, seen: Any, size_bytes: Any, sha256: str) -> bool:
        """Tell whether a file has the status by which it was digested, or else size and content on record.

        `seen` is a `signature`: None if there was no file, which is as seen while there is none.
        """
        status = signature(path)
        if status is None or status == seen:
            return status == seen
        return status[1] == size_bytes and self._digest(path, status) == sha256

    def keep(self) -> None:
        """Write what was asked for, if that is not what is known already; nothing asked for, no file."""
        # Where it cannot be written the next start digests again.
        with contextlib.suppress(OSError):
            if not self._used:
                self._path.unlink(missing_ok=True)
            elif self._used != self._known:
                with atomic_write(self._path) as temporary:
                    temporary.write_text(json.dumps(self._used, indent=0, sort_keys=True) + "\n")

    @property
    def _known(self) -> dict[str, Any]:
        if self._old is None:
            self._old = {}
            with contextlib.suppress(OSError, ValueError, RecursionError):
                data = json.loads(self._path.read_bytes())
                self._old = data if isinstance(data, dict) else {}
        return self._old

    def _digest(self, path: Path, status: list[int]) -> str:
        name = str(path)
        known = self._known.get(name)
        # The status was taken before the content: a change in between is a change of what was seen.
        if not (isinstance(known, list) and len(known) == 2 and known[0] == status):
            self._tell()
            known = [status, _content(path)]
        self._used[name] = known
        return known[1]


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        # Gone, or not to be read: its stage will say why.
        return ""
