"""What Snakemake was asked for, as far as the plan depends on it.

Snakemake reads the Snakefile before it tells it of targets, forced rules and dry runs, and rules must be made for what
is left to do. So its command line is read once more, with its own parser.
"""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from snakemake.cli import parse_args
from snakemake.exceptions import CliException

_TELLING = ("report", "summary", "detailed_summary", "dag", "rulegraph", "filegraph", "d3dag")


@dataclass(frozen=True)
class Asked:
    """The wishes of a command line."""

    files: tuple[str, ...] = ()
    """Targets and forced files; of a job on a cluster, its outputs as `scans/UNIT/stages/STAGE.json`."""
    forced: frozenset[str] = frozenset()
    """Rules that are to run again."""
    all_forced: bool = False
    is_dry: bool = False
    keeps_memory: bool = False
    """Jobs run on this machine, and nothing was said of how much memory all of them may take."""
    tells_of_all: bool = False
    """A report, summary or drawing, which is of all jobs, done or not."""


def asked(arguments: Sequence[str] | None = None) -> Asked:
    """Read a command line of Snakemake; without any, that of this process. What cannot be read asks for nothing."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            _, found = parse_args(list(sys.argv[1:] if arguments is None else arguments))
    except (SystemExit, CliException):
        # Started by other means than the command line.
        return Asked()
    jobs = [
        f"scans/{job.wildcards_dict['scans']}/stages/{job.rulename}.json" for job in found.target_jobs if _has_unit(job)
    ]
    targets, forced = [str(name) for name in found.targets or ()], {str(name) for name in found.forcerun or ()}
    if found.force:
        forced |= set(targets)
    is_local = found.executor in (None, "local")
    keeps_memory = is_local and "mem_mb" not in str(found.resources)
    tells = any(getattr(found, name) not in (None, False) for name in _TELLING)
    files = (*targets, *sorted(forced), *jobs)
    return Asked(files, frozenset(forced), found.forceall, found.dryrun, keeps_memory, tells)


def _has_unit(job: object) -> bool:
    return "scans" in (getattr(job, "wildcards_dict", None) or {})
