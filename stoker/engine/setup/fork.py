"""Notice that this process was forked from one that had an engine.

A forked child has the memory of its parent and none of its threads. OpenMP, which computes on
several, waits in the child for threads that are not there, for ever; CUDA refuses to work. Both
are detected before they are met, and the message says to start processes with "spawn".
"""

from __future__ import annotations

import os

from stoker.errors import StokerError

SPAWN = 'start processes with multiprocessing.get_context("spawn")'


class _Threads:
    """How many threads compute, at most: `used` by engines of this process and of those it was
    forked from, `inherited` by those alone."""

    used = 0
    inherited = 0

    @classmethod
    def after_fork(cls) -> None:
        cls.inherited = cls.used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Threads.after_fork)


def check_fork(device: str, threads: int | None) -> None:
    """Note that an engine is made here with `threads`; None on a GPU, which counts as several.

    Raises:
        StokerError: it would hang, because the parent of this process had such an engine.
    """
    wanted = threads or 2
    if _Threads.inherited > 1 and (wanted > 1 or device != "cpu"):
        raise StokerError(
            "this process was forked from one that had loaded a model, and the threads that "
            f"compute are not in it; {SPAWN}, or load the model with threads=1"
        )
    _Threads.used = max(_Threads.used, wanted)


class Home:
    """The process that an object was made in."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def here(self) -> bool:
        return os.getpid() == self._pid

    def require(self, what: str) -> None:
        """Raise StokerError if this is another process than the one `what` was made in."""
        if not self.here:
            raise StokerError(
                f"{what} was made in process {self._pid}, and this process ({os.getpid()}) is a "
                f"fork of it; {SPAWN} and make one in each"
            )
