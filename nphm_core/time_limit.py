"""How long a stage may take for one scan before it is given up: a verdict on the scan, not the end of the run.

The limit comes by an environment variable: it decides nothing about results that are made, so it is no part of a rule.
Imported by the Snakefile: standard library only.
"""

import os
from collections.abc import Mapping
from typing import Any

VARIABLE = "NPHM_STAGE_TIMEOUT_S"
"""Name of the environment variable that holds the limit in seconds."""

DEFAULT_S = 1800.0
"""The limit without it, by the wall clock."""


def time_limit_s() -> float:
    """Give the limit of one stage for one scan."""
    return float(os.environ.get(VARIABLE) or DEFAULT_S)


def deserves_more_time(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is that of a stage which ran out of time, when it had less than it would have now."""
    limit_s = record.get("time_limit_s")
    return limit_s is not None and limit_s < time_limit_s()
