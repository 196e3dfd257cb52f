"""Run a stage, `python -m pipelines STAGE ...`, and load what it needs only if there is something to do.

The same as `python -m pipelines.STAGE ...`; a scan that is made already costs a twentieth of a second.
"""

import sys
from importlib import import_module

from nphm_core.errors import NphmError
from nphm_core.stages import STAGES
from pipelines.stage_command import finish_current, stage_command


def main() -> None:
    """Run the command."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in STAGES:
        sys.exit(f"{name!r} is no stage; expected one of {', '.join(STAGES)}. Name it first, then its options")
    del sys.argv[1]
    try:
        done = "--help" not in sys.argv and "-h" not in sys.argv and finish_current(name)
    except (NphmError, OSError):
        # Said by the whole command, in its words.
        done = False
    if not done:
        module = import_module(f"pipelines.{name}")
        stage_command(name, module.process, extra=getattr(module, "add_options", None))


if __name__ == "__main__":
    main()
