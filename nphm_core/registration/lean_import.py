"""Import parts of a package without running the package's own `__init__`.

Every per-scan stage is a process of its own, and some packages import at their start what only their interactive parts
need: MediaPipe brings matplotlib, pyrender a window system and all of trimesh. That is half of what such a stage costs.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bare_packages(*names: str, keep: bool = False) -> Iterator[None]:
    """Let `import package.part` inside of the block skip the `__init__` of these packages, given parents first.

    A package that is imported already stays as it is. After the block a plain `import package` runs its `__init__`
    over the parts that are there; with `keep` the package stays bare in this process, for those that cannot bear that.
    """
    added = []
    try:
        for name in names:
            if name in sys.modules:
                continue
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"no package named {name!r}", name=name)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            added.append(name)
        yield
    finally:
        for name in () if keep else added:
            del sys.modules[name]
