"""Set-up compiles all kernels, so that no stage has to."""

import re
import subprocess
import sys

CODE = """
import sys
from pipelines.compile_kernels import main

assert main() == 0
print(*sorted(sys.modules))
"""


def test_set_up_reaches_every_module_with_kernels(repository):
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=repository,
        check=True,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    sources = (path for path in (repository / "nphm_core").rglob("*.py") if re.search("^@njit", path.read_text(), re.M))
    names = {".".join(path.relative_to(repository).with_suffix("").parts) for path in sources}
    assert len(names) > 5
    assert names <= set(done.stdout.split())
