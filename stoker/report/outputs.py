"""Reads the JSON Lines that a run wrote, a row at a time, and finds a row of one by its number.

Knows the form of an output row. Files of any size: rows are streamed, and a finder keeps eight
bytes for each.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stoker.errors import JobError
from stoker.job.report import RESULT

NOWHERE = -1


class OutputRow(NamedTuple):
    """A row of an output: its columns and its result."""

    fields: dict[str, Any]
    result: dict[str, Any]

    @property
    def number(self) -> int:
        return int(self.result["row"])


def read_output(path: Path, key: str = RESULT) -> Iterator[OutputRow]:
    """The rows of an output, as they stand in it. A last line that is torn is left out.

    Raises:
        JobError: the file can't be read, or a line is no row of an output.
    """
    return (row for _, row in _rows(path, key))


class RowFinder:
    """The rows of an output by their numbers.

    Raises:
        JobError: as `read_output`.
    """

    def __init__(self, path: Path, key: str = RESULT) -> None:
        self._key = key
        self._places = array("q")
        self.rows = 0
        for place, row in _rows(path, key):
            number = row.number
            if number >= len(self._places):
                self._places.extend([NOWHERE] * (number + 1 - len(self._places)))
            self.rows += self._places[number] == NOWHERE
            self._places[number] = place
        self._file = path.open("rb")

    def __enter__(self) -> RowFinder:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()

    def __getitem__(self, number: int) -> OutputRow | None:
        """The row with this number, None if there is none."""
        if number >= len(self._places) or self._places[number] == NOWHERE:
            return None
        self._file.seek(self._places[number])
        return _parsed(self._file.readline(), self._key)


def _rows(path: Path, key: str) -> Iterator[tuple[int, OutputRow]]:
    """Each row with the place in the file where its line begins."""
    try:
        with path.open("rb") as file:
            place = 0
            for number, line in enumerate(file, 1):
                row = _parsed(line, key)
                if row is not None:
                    yield place, row
                elif line.endswith(b"\n") and line.strip():
                    raise JobError(
                        f"line {number} of {path} is no row of an output, which is a JSON object "
                        f"with a {key!r} that has a row number and a status; name a file that "
                        "stoker run wrote as JSON Lines"
                    )
                place += len(line)
    except OSError as problem:
        raise JobError(f"cannot read {path}: {problem.strerror}") from None


def _parsed(line: bytes, key: str) -> OutputRow | None:
    try:
        fields = json.loads(line)
        result = fields.pop(key)
        number, status = result["row"], result["status"]
        if not isinstance(number, int) or number < 0 or not isinstance(status, str):
            return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return OutputRow(fields, result)
