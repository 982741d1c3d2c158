"""Results on standard output: as they come, or held in a temporary file until it is their turn.

Nothing of a job is kept here that could be continued: a pipe has no place for it. Stands in for the
journal and the ordered file of a job (output.py).
"""

from __future__ import annotations

import sys
import tempfile
from typing import IO

from stoker.errors import JobError
from stoker.job.order import InOrder


class StandardOutput:
    """Takes lines and writes them to standard output.

    Args:
        ordered: write them in the order of their rows' numbers, which `order` is told.

    Attributes:
        order: says which is next.
    """

    def __init__(self, ordered: bool) -> None:
        self.order = InOrder()
        self._file = sys.stdout.buffer
        self._lines: list[bytes] = []  # that wait for a flush
        self._held: IO[bytes] | None = None
        if ordered:
            self._held = tempfile.TemporaryFile(prefix="stoker-")  # noqa: SIM115  # until `close`
        self._size = 0  # bytes that are held

    def append(self, line: bytes) -> int:
        """Add a whole line.

        Returns: the byte at which it begins, for the order.

        Raises:
            JobError: there is no room for it.
        """
        if self._held is None:
            self._lines.append(line)
            return 0
        place = self._size
        try:
            self._held.seek(place)
            self._held.write(line)
        except OSError as problem:
            raise JobError(
                f"cannot hold results in {tempfile.gettempdir()}: {problem.strerror}; set TMPDIR "
                "to a folder with more room, or leave --ordered out"
            ) from problem
        self._size += len(line)
        return place

    def flush(self) -> None:
        """Write what came since the last time, where no order is asked for.

        Raises:
            BrokenPipeError: nobody reads any more.
            JobError: it can't be written otherwise.
        """
        lines, self._lines = self._lines, []
        self._write(lines)

    def advance(self) -> None:
        """Write what is next; raises as `flush`."""
        if self._held is None:
            return
        lines = []
        for place in self.order.take():
            self._held.seek(place)
            lines.append(self._held.readline())
        self._write(lines)

    def finish(self) -> None:
        """Write the rest, now that every row has its result; raises as `flush`."""
        self.order.expect_no_more()
        self.advance()

    def close(self) -> None:
        if self._held is not None:
            self._held.close()

    def _write(self, lines: list[bytes]) -> None:
        try:
            for line in lines:
                self._file.write(line)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as problem:
            raise JobError(f"cannot write to standard output: {problem.strerror}") from problem
