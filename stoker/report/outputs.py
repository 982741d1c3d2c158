"""Reads what a run wrote, a row at a time, and finds a row by its number.

JSON Lines, packed or not, and Parquet are read as they are. CSV has lost what is a number and what
is text, so the rows it was made of are read, from the journal beside it.

Knows the form of an output row. Files of any size: rows are streamed, and a finder keeps eight
bytes for each.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from stoker.errors import JobError
from stoker.job.csv_output import DELIMITERS
from stoker.job.journal import encoded
from stoker.job.output_format import output_format
from stoker.job.report import RESULT
from stoker.job.rows import BadRow
from stoker.job.sources.columnar import Parquet
from stoker.job.sources.streams import opened, packed_as
from stoker.job.state import JOURNAL, sidecar

NOWHERE = -1
FORM = "that has a row number and a status; name a file that stoker run or stoker embed wrote"


class OutputRow(NamedTuple):
    """A row of an output: its columns and its result."""

    fields: dict[str, Any]
    result: dict[str, Any]

    @property
    def number(self) -> int:
        return int(self.result["row"])


def read_output(path: Path, key: str = RESULT) -> Iterator[OutputRow]:
    """The rows of an output, as they stand in it. A last line that is torn is left out.

    In Parquet every row has every column of the file, so there nulls count as absent.

    Raises:
        JobError: the file can't be read, or a row is no row of an output.
    """
    path = _with_rows(path)
    if _is_parquet(path):
        return _parquet_rows(path, key)
    return (row for _, row in _lines(path, key))


class RowFinder:
    """The rows of an output by their numbers. Those of Parquet and of packed files, which have no
    places to go to, are written to a temporary file (in TMPDIR) as JSON Lines first.

    Raises:
        JobError: as `read_output`; there is no room for the temporary file.
    """

    def __init__(self, path: Path, key: str = RESULT) -> None:
        self._key = key
        self._places = array("q")
        self.rows = 0
        path = _with_rows(path)
        if _is_parquet(path) or packed_as(_start(path)):
            self._file = self._unfold(path)
            return
        for place, row in _lines(path, key):
            self._note(row.number, place)
        self._file = path.open("rb")

    def _unfold(self, path: Path) -> IO[bytes]:
        file = tempfile.TemporaryFile(prefix="stoker-")  # noqa: SIM115  # outlives this call
        try:
            place = 0
            for row in read_output(path, self._key):
                self._note(row.number, place)
                place += file.write(encoded({**row.fields, self._key: row.result}))
            file.flush()
        except OSError as problem:
            raise JobError(
                f"cannot keep the rows of {path} in {tempfile.gettempdir()}: {problem.strerror}; "
                "set TMPDIR to a folder with more room"
            ) from None
        return file

    def _note(self, number: int, place: int) -> None:
        if number >= len(self._places):
            self._places.extend([NOWHERE] * (number + 1 - len(self._places)))
        self.rows += self._places[number] == NOWHERE
        self._places[number] = place

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


def _with_rows(path: Path) -> Path:
    """The file that holds an output's rows: the output, or the journal that CSV was made of.

    Raises:
        JobError: the output can't be read, or is CSV without its journal.
    """
    start = _start(path)
    if output_format(path).form not in DELIMITERS or start[:1] == b"{":
        return path
    journal = sidecar(path) / JOURNAL
    if not journal.exists():
        raise JobError(
            f"{path} is CSV, where numbers and texts look alike; its rows are read from {journal}, "
            "which is not there"
        )
    return journal


def _is_parquet(path: Path) -> bool:
    return _start(path) == b"PAR1"


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as problem:
        raise JobError(f"cannot read {path}: {problem.strerror}; check the path") from None


def _lines(path: Path, key: str) -> Iterator[tuple[int, OutputRow]]:
    """Each row of JSON Lines with the place in the unpacked file where its line begins."""
    with opened(path) as file:
        place = 0
        for number, line in enumerate(file, 1):
            row = _parsed(line, key)
            if row is not None:
                yield place, row
            elif line.endswith(b"\n") and line.strip():
                raise JobError(
                    f"line {number} of {path} is no row of an output, which is a JSON object "
                    f"with a {key!r} {FORM}"
                )
            place += len(line)


def _parsed(line: bytes, key: str) -> OutputRow | None:
    try:
        return _row(json.loads(line), key)
    except (ValueError, RecursionError):
        return None


def _row(fields: Any, key: str) -> OutputRow | None:
    try:
        result = fields.pop(key)
        number, status = result["row"], result["status"]
    except (KeyError, TypeError, AttributeError):
        return None
    if not isinstance(number, int) or number < 0 or not isinstance(status, str):
        return None
    return OutputRow(fields, result)


def _parquet_rows(path: Path, key: str) -> Iterator[OutputRow]:
    for at, found in enumerate(Parquet([path], str(path)).rows(), 1):
        row = None
        if not isinstance(found, BadRow):
            fields = without_nulls(found.fields)
            for name in (key, "response"):  # as text, where their values had no type in common
                if isinstance(fields.get(name), str):
                    fields[name] = _json(fields[name])
            row = _row(fields, key)
        if row is None:
            raise JobError(
                f"row {at} of {path} is no row of an output, which has a column {key!r} {FORM}"
            )
        yield row


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def without_nulls(value: Any) -> Any:
    """The value without the entries of objects in it that are null."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value
