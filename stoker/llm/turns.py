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
        called: threading.Event | None = None  # set when this thread's turn comes
        try:  # an interruption (Ctrl-C) at any line below passes the turn on
            with self._mutex:
                if self._owner is None:
                    self._owner = me
                else:
                    called = threading.Event()
                    self._waiting.append((me, called))
            if called is not None:
                called.wait()
            yield
        finally:
            self._give_back(me, called)

    def keep(self, patience: float) -> None:
        """Take the turn before all that wait, and never give it back.

        Args:
            patience: seconds to wait for whoever has it.
        """
        me, called = threading.get_ident(), threading.Event()
        with self._mutex:
            if self._owner is None or self._owner == me:
                self._owner = me
                return
            self._waiting.appendleft((me, called))
        called.wait(patience)

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
                self._give_back(me)

    def _give_back(self, me: int, called: threading.Event | None = None) -> None:
        with self._mutex:
            if called is not None and (me, called) in self._waiting:
                self._waiting.remove((me, called))  # interrupted before its turn came
            elif self._owner == me:
                self._owner = None
                if self._waiting:
                    self._owner, event = self._waiting.popleft()
                    event.set()
