"""CSV and TSV: a header, then a row of texts in each record.

Read by Python's csv module and not by pyarrow's: there values stay as they are written ("007" is
no 7), and one ragged record is one bad row. Knows nothing of prompts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources.base import LARGEST, FileSource, Rows
from stoker.job.sources.streams import opened

DELIMITERS = (",", ";", "\t", "|")


class Table(FileSource):
    """Records under a header. A row's number counts records; the header and blank lines do not.

    Args:
        paths, name: as for any file.
        delimiter: between values; None takes the one that the header has most of.
    """

    def __init__(self, paths: Sequence[Path], name: str = "", delimiter: str | None = None) -> None:
        super().__init__(paths, name)
        self.form = "tsv" if delimiter == "\t" else "csv"
        self._delimiter = delimiter

    def rows(self) -> Rows:
        csv.field_size_limit(LARGEST)
        with opened(self.paths[0]) as file:
            text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
            lines = iter(lambda: text.readline(LARGEST), "")
            first = next((line for line in lines if line.strip()), "")
            delimiter = self._delimiter or max(DELIMITERS, key=first.count)
            reader = csv.reader(_chain(first, lines), delimiter=delimiter, strict=True)
            header = self._header(reader)
            number, line = 0, reader.line_num
            while True:
                begin, values, error = line + 1, [], ""
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as problem:
                    error = _advice(str(problem))
                line = reader.line_num
                if values or error:
                    number += 1
                    place = f"{self.name}, line {begin}"
                    if error:
                        yield BadRow(number, f"{place}: {error}", {})
                    else:
                        yield _row(number, place, header, values)

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = next(reader, [])
        except csv.Error as problem:
            raise JobError(f"{self.name}, line 1: the header: {_advice(str(problem))}") from None
        for name in header:
            if header.count(name) > 1:
                raise JobError(
                    f"{self.name}, line 1: two columns are called {name!r}; rename one of them"
                )
        return [name.encode("utf-8", "replace").decode() for name in header]


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _row(number: int, place: str, header: list[str], values: list[str]) -> Row | BadRow:
    fields = dict(zip(header, values, strict=False))
    whole = "".join(values)
    if not whole.isascii():
        try:
            whole.encode()
        except UnicodeEncodeError:
            column = next(name for name, value in fields.items() if _broken(value))
            shown = {name: _shown(value) for name, value in fields.items()}
            error = (
                f"{place}, column {column!r} is not UTF-8; convert the file "
                "(iconv -f ENCODING -t UTF-8)"
            )
            return BadRow(number, error, shown)
    if len(values) != len(header):
        error = (
            f"{place} has {len(values)} values and the header has {len(header)} columns "
            f"({', '.join(header)}); put values that hold the delimiter in double quotes"
        )
        return BadRow(number, error, fields)
    return Row(number, fields, place)


def _shown(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _broken(value: str) -> bool:
    return _shown(value).encode() != value.encode("utf-8", "surrogateescape")


def _advice(problem: str) -> str:
    if "unexpected end of data" in problem or "field larger" in problem:
        return "the double quote that opens here is not closed; close it, or write it twice"
    return f"{problem}; write a double quote inside a quoted value twice"
