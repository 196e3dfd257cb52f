"""Files that are there whole or not at all, also after a kill, a full disk or a power cut, and locks of one stage.

A file is written under a temporary name beside its own, its bytes are brought to the disk, and only then it is
renamed; a record is renamed only after the artifacts that it names are on the disk. Standard library only.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    The folder is made if missing. The temporary name keeps the suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk; file systems that cannot are left as they are."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def hold_lock(path: Path, *, wait: bool = True) -> int | None:
    """Take a lock that other processes see, also on other machines, and that ends with this process.

    Gives what `release_lock` takes; None if another process holds it and `wait` is false. File systems without locks
    give a lock that holds nobody back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
        if _is_still(path, handle):
            return handle
        # Its last holder has removed it meanwhile: a lock on it would hold nobody back.
        os.close(handle)


def release_lock(path: Path, handle: int) -> None:
    """Give a lock back and remove its file."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
