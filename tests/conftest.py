"""What all tests share: shapes and types are checked at run time, and outside data is asked for by name."""

import functools
import inspect
import os
from pathlib import Path

import numba
import pytest
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).parent.parent

# Stages are processes of one thread; so are the tests.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def _compile_the_plain_function(decorator):
    """Let Numba see kernels as written: the hook below wraps every function, and a wrapper cannot be compiled."""

    @functools.wraps(decorator)
    def njit(*args, **options):
        if args and inspect.isfunction(args[0]):
            return decorator(inspect.unwrap(args[0]), *args[1:], **options)
        made = decorator(*args, **options)
        return lambda function: made(inspect.unwrap(function))

    return njit


for _name in ("njit", "jit"):
    setattr(numba, _name, _compile_the_plain_function(getattr(numba, _name)))

# Kept alive for the whole run. It must come before the first import of the core.
_HOOK = install_import_hook(["nphm_core", "pipelines"], "beartype.beartype")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with scans and models that are not part of the project; tests that need it skip without it."""
    folder = Path(os.environ.get("NPHM_SHARED", REPOSITORY.parent / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip("no shared data: set NPHM_SHARED to its folder")
    return folder
