"""What a stage's process may go on with when its own stage is done.

To start a process and to load what it needs costs about as much as most stages' own work. So the process that has
made one stage of a scan makes the next ones, too, where all they need is there, and leaves them beside their hidden
records; the rules that follow find them current. What to do comes by an environment variable: it decides nothing
about results, so it is no part of a rule. Imported by the Snakefile: standard library only.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "NPHM_WORK_AHEAD"
"""Name of the environment variable; without it every process makes its own stage only."""
AGAIN_VARIABLE = "NPHM_AGAIN"
"""Name of the environment variable that lists the stages a user forces: they run even if they are current."""


@dataclass(frozen=True)
class AheadPlan:
    """What the commands of all stages would be told."""

    settings: Mapping[str, Mapping[str, Any]]
    """The config's section of each stage."""
    seed: int
    template: str
    """Folder of the template."""

    def to_text(self) -> str:
        """Give what the environment variable holds."""
        return json.dumps({"settings": self.settings, "seed": self.seed, "template": self.template}, sort_keys=True)


def ahead_plan() -> AheadPlan | None:
    """Read the plan from the environment; None if there is none."""
    text = os.environ.get(VARIABLE)
    return AheadPlan(**json.loads(text)) if text else None


def is_forced(stage: str) -> bool:
    """Tell whether a stage is to be run although its result is current."""
    return stage in os.environ.get(AGAIN_VARIABLE, "").split(",")
