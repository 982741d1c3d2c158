"""A lock whose waiters are served in the order they came.

`threading.Lock` lets a thread that releases it and asks again overtake those that wait, so one
that steps an engine in a loop would starve the others.

    thread A   step  ----  wait  step  ----
    thread B   wait  step  ----  wait  step
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from stoker.errors import StokerError


class Turns:
    """One thread at a time, first come, first served."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # held for a few assignments only
        self._owner: int | None = None
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Wait for this thread's turn and hold it inside the context.

        Raises:
            StokerError: this thread has the turn already, so it would wait for itself.
        """
        me = threading.get_ident()
        if self._owner == me:
            raise StokerError(
                "this LLM was called from inside one of its own steps (by a logits processor, "
                "say), which would wait for itself; use another LLM there"
            )
        ticket = (me, threading.Event())
        try:  # an interruption (Ctrl-C) at any line below passes the turn on
            with self._mutex:
                if self._owner is None:
                    self._owner = me
                else:
                    self._waiting.append(ticket)
            if self._owner != me:
                ticket[1].wait()
            yield
        finally:
            self._give_back(ticket)

    @contextlib.contextmanager
    def take_if_free(self) -> Iterator[bool]:
        """Hold the turn inside the context if nobody has it; gives whether that is so.

        Never waits, so a finaliser that the garbage collector runs may use it.
        """
        me, taken = threading.get_ident(), False
        if self._mutex.acquire(blocking=False):
            if self._owner is None:
                self._owner, taken = me, True
            self._mutex.release()
        try:
            yield taken
        finally:
            if taken:
                self._give_back((me, threading.Event()))

    def _give_back(self, ticket: tuple[int, threading.Event]) -> None:
        with self._mutex:
            if ticket in self._waiting:  # interrupted before its turn came
                self._waiting.remove(ticket)
            elif self._owner == ticket[0]:
                self._owner = None
                if self._waiting:
                    self._owner, event = self._waiting.popleft()
                    event.set()
