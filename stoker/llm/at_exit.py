"""See to it that no thread computes when Python ends.

A daemon thread that comes back from torch while Python is torn down is ended where C++ allows no
end, and the whole process is aborted with it, after all its work is done. Called by what lets
threads step an engine.
"""

from __future__ import annotations

import atexit
import contextlib
import weakref
from typing import Protocol


class Leaves(Protocol):
    """What has steps under way."""

    def leave(self) -> None:
        """Wait for the step under way and let none follow; called once, when Python ends."""


_OPEN: weakref.WeakSet[Leaves] = weakref.WeakSet()


def leave_at_exit(one: Leaves) -> None:
    """Call `one.leave()` when Python ends, if `one` is still there."""
    _OPEN.add(one)


@atexit.register
def _leave() -> None:
    for one in list(_OPEN):
        with contextlib.suppress(Exception):  # nobody is left to be told
            one.leave()
