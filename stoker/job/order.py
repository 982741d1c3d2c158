"""The rows of a journal in the order of the input: which is next, and the output they go to.

The journal (journal.py) has results as they came and is what counts; an ordered output follows
from it. Memory grows by eight bytes a row. Called by the job's output; knows no model.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from stoker.errors import JobError

ABSENT, AWAITED = 0, -1  # of a number that no row has, and of a row without a result
CHUNK = 1 << 20  # bytes that are written at once


class InOrder:
    """Gives the places of results in the journal, each once, in the order of the rows' numbers.

    One thread may call `expect` while another calls the rest.
    """

    def __init__(self) -> None:
        self._places = array("q")  # by number: offset + 1, or one of the above
        self._next = 0  # the first number that was not given
        self._known = 0  # of the numbers below, all rows that there are were expected

    def expect(self, number: int) -> None:
        """Note that a row of this number exists, with none between it and the last one noted."""
        self._grow(number)
        if self._places[number] == ABSENT:
            self._places[number] = AWAITED
        self._known = number + 1

    def found(self, number: int, offset: int) -> None:
        """The row's result lies at this byte of the journal."""
        self._grow(number)
        self._places[number] = offset + 1

    def expect_no_more(self) -> None:
        """Note that every existing row has been announced."""
        self._known = len(self._places)

    def take(self) -> Iterator[int]:
        """The offsets of the results that are next; it ends before a row that has none."""
        while self._next < self._known and self._places[self._next] != AWAITED:
            place = self._places[self._next]
            self._next += 1
            if place != ABSENT:
                yield place - 1

    @property
    def held_up(self) -> bool:
        """Return True if the next row has no result yet."""
        return self._next < self._known and self._places[self._next] == AWAITED

    def _grow(self, number: int) -> None:
        missing = number + 1 - len(self._places)
        if missing > 0:
            self._places.extend([ABSENT] * missing)


class OrderedFile:
    """The output in the order of the input, up to the first row that has no result.

    What an earlier run has left of it stays as far as it agrees with the journal, so a torn end, or
    what comes after a row that is run again, is cut off. It is made durable at its end alone.

    Args:
        path: the output, made if it is not there.
        journal: where the results are.
        order: says which is next.

    Raises:
        JobError: one can't be opened.
    """

    def __init__(self, path: Path, journal: Path, order: InOrder) -> None:
        self.path, self.order = path, order
        self._size = 0  # bytes that agree with the journal
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            self._journal = journal.open("rb")
        except OSError as problem:
            raise self._named(problem) from problem

    def advance(self) -> None:
        """Write what is next.

        Raises:
            JobError: the file can't be written.
        """
        held: list[bytes] = []
        size = 0
        try:
            for offset in self.order.take():
                self._journal.seek(offset)
                held.append(self._journal.readline())
                size += len(held[-1])
                if size >= CHUNK:
                    self._put(b"".join(held))
                    held, size = [], 0
            self._put(b"".join(held))
            if self.order.held_up:
                self._cut()
        except OSError as problem:
            raise self._named(problem) from problem

    def finish(self) -> None:
        """Write the rest, now that every row has its result, and make it durable.

        Raises:
            JobError: the file can't be written, or is no longer where it was.
        """
        self.order.expect_no_more()
        self.advance()
        assert not self.order.held_up, "a row has no result"
        try:
            self._cut()
            os.fsync(self._fd)
            if os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                return
        except FileNotFoundError:
            pass
        except OSError as problem:
            raise self._named(problem) from problem
        raise JobError(
            f"{self.path} has been removed or replaced while the job was writing it; give the same "
            "command again to write it anew"
        )

    def close(self) -> None:
        os.close(self._fd)
        self._journal.close()

    def _put(self, data: bytes) -> None:
        if data and os.pread(self._fd, len(data), self._size) != data:
            self._cut()
            rest = memoryview(data)
            while rest:
                rest = rest[os.pwrite(self._fd, rest, self._size + len(data) - len(rest)) :]
        self._size += len(data)

    def _cut(self) -> None:
        if os.fstat(self._fd).st_size > self._size:
            os.ftruncate(self._fd, self._size)

    def _named(self, problem: OSError) -> JobError:
        return JobError(
            f"cannot write {self.path}: {problem.strerror}; finished rows are kept beside it, and "
            "the same command goes on from there once this is fixed"
        )
