"""Handle SIGINT and SIGTERM: let the current step finish, within two seconds."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

PATIENCE = 1.2  # seconds allowed for the current step; the process exits within 2 seconds in all

Handler = Callable[[int, FrameType | None], Any]


def _raise(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once SIGINT or SIGTERM has arrived.

    A second signal, or a step that takes too long after the first, raises KeyboardInterrupt.
    Ignored signals stay ignored. Outside the main thread nothing changes.
    """
    asked = threading.Event()

    def first(signum: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    with _handling({signal.SIGINT: first, signal.SIGTERM: first, signal.SIGALRM: _raise}):
        try:
            yield asked.is_set
        finally:
            if asked.is_set():
                signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt, as SIGINT does."""
    with _handling({signal.SIGTERM: _raise}):
        yield


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number, handler in handlers.items():
        found = signal.getsignal(number)
        if found is not signal.SIG_IGN:
            before[number] = found
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)
