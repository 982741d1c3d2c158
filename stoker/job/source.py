"""Where a job's rows come from: the interface that the job reads, and JSON Lines.

Knows no model and no settings. Opened by the job, and by whoever counts rows beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from stoker.errors import JobError
from stoker.job.fingerprint import new_hash
from stoker.job.rows import BadRow, Row, read_rows


class Source(Protocol):
    """Rows of some format, streamed."""

    name: str  # for messages

    def fingerprint(self) -> str:
        """A hash of the content: another content, another fingerprint."""
        ...

    def rows(self) -> Iterator[Row | BadRow]:
        """The rows from the first on, numbered from 1, in rising order; each call starts anew."""
        ...

    def count(self) -> int | None:
        """The number of rows, or None if that is not cheaply known."""
        ...


class JsonLines:
    """A JSON Lines file; a row's number is its line, and blank lines are no rows.

    Raises:
        JobError: the file can't be read or holds no row.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)
        content = new_hash()
        self._count = 0
        try:
            with path.open("rb") as file:
                for line in file:
                    content.update(line)
                    self._count += not line.isspace()
        except OSError as problem:
            raise JobError(f"cannot read {path}: {problem.strerror}") from None
        if self._count == 0:
            raise JobError(f"{path} holds no rows; each line should be a JSON object with a prompt")
        self._fingerprint = content.hexdigest()

    def fingerprint(self) -> str:
        return self._fingerprint

    def rows(self) -> Iterator[Row | BadRow]:
        return read_rows(self._path)

    def count(self) -> int | None:
        return self._count


def open_source(path: Path) -> Source:
    """The rows of a file.

    Raises:
        JobError: the file can't be read or holds no row.
    """
    return JsonLines(path)
