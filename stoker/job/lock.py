"""Lock a job for one process; the lock ends when that process ends, however it ends.

Called by the job before it touches anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from stoker.errors import JobError


@contextlib.contextmanager
def locked(path: Path, job: Path) -> Iterator[None]:
    """Hold the lock of a job.

    Args:
        path: the lock file, made if it is not there; it stays.
        job: the job's output, for the message.

    Raises:
        JobError: another process holds it, or the file can't be made.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as problem:
        raise JobError(f"cannot write {path}: {problem.strerror}") from problem
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode("ascii", "replace").strip()
            raise JobError(
                f"another process ({owner or 'just started'}) is running the job of {job}; "
                "wait for it to end, or stop it"
            ) from None
        except OSError as problem:
            raise JobError(f"cannot lock {path}: {problem.strerror}") from problem
        with contextlib.suppress(OSError):  # it only helps the message; the disk may be full
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
