"""CSV and TSV: a header, then a row of texts in each record.

Read by Python's csv module and not by pyarrow's: there values stay as they are written ("007" is
no 7), and one ragged record is one bad row. Knows nothing of prompts.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources.base import LARGEST, FileSource, Rows
from stoker.job.sources.lines import NUL
from stoker.job.sources.streams import opened

DELIMITERS = (",", ";", "\t", "|")
NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|", "space": " "}
QUOTED = re.compile(r'"(?:[^"]|"")*(?:"|$)')
SAID = re.compile(r'"?sep=([^"\r\n\0])"?[\r\n]*', re.IGNORECASE)  # the first line, as Excel has it


class Table(FileSource):
    """Records under a header. A row's number counts records; the header and blank lines do not.

    Args:
        paths, name: as for any file.
        delimiter: between values; None takes the one that a first line `sep=;` names, or that the
            header has most of outside quotes.
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
            at, first, said = _first_line(lines)
            delimiter = self._delimiter or said or _most_frequent(first)
            reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
            header = self._header(reader, at)
            number, line = 0, at - 1 + reader.line_num
            while True:
                begin, values, error = line + 1, [], ""
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as problem:
                    error = _advice(str(problem))
                line = at - 1 + reader.line_num
                blank = not values or (len(values) == 1 < len(header) and not values[0].strip())
                if error or not blank:
                    number += 1
                    place = f"{self.name}, line {begin}"
                    if error:
                        yield BadRow(number, f"{place}: {error}", {})
                    else:
                        yield _row(number, place, header, values)

    def _header(self, reader: Iterator[list[str]], line: int) -> list[str]:
        place = f"{self.name}, line {line}"
        try:
            header = next(reader, [])
        except csv.Error as problem:
            raise JobError(f"{place}: the header: {_advice(str(problem))}") from None
        if any("\0" in name for name in header):
            raise JobError(f"{place}: the header {NUL}")
        names = [name.encode("utf-8", "replace").decode() for name in header]
        if names.count("") > 1:  # such as commas at the end of each line
            names = [name or f"column {at}" for at, name in enumerate(names, 1)]
        for name, count in Counter(names).items():
            if count > 1:
                raise JobError(f"{place}: two columns are called {name!r}; rename one of them")
        return names


def parse_delimiter(text: str) -> str:
    """A delimiter given as itself or by a name in `NAMES`.

    Raises:
        JobError: it is not one character, or one that cannot stand between values.
    """
    delimiter = NAMES.get(text.lower(), text)
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        names = ", ".join(name for name in NAMES if name.isalpha())
        raise JobError(
            f"--delimiter must be one character that stands between values, or one of {names}, "
            f"not {text!r}"
        )
    return delimiter


def _first_line(lines: Iterator[str]) -> tuple[int, str, str | None]:
    """Number and text of the line where the header begins, and the delimiter told before it."""
    said = None
    for number, line in enumerate(lines, 1):
        if said is None and (found := SAID.fullmatch(line)):
            said = found[1]
        elif line.strip():
            return number, line, said
    return 1, "", said


def _most_frequent(header: str) -> str:
    """The delimiter that a line has most of outside quotes, those beside a quote first."""
    bare = QUOTED.sub('"', header)
    return max(DELIMITERS, key=lambda d: (bare.count(f'"{d}') + bare.count(f'{d}"'), bare.count(d)))


def _row(number: int, place: str, header: list[str], values: list[str]) -> Row | BadRow:
    while len(values) > len(header) and not values[-1]:  # delimiters at the end of the line
        values.pop()
    fields = dict(zip(header, values, strict=False))
    whole = "".join(values)
    if not whole.isascii():
        try:
            whole.encode()
        except UnicodeEncodeError:
            shown = {name: _shown(value) for name, value in fields.items()}
            error = (
                f"{place}{_column(fields, _broken)} is not UTF-8; convert the file "
                "(iconv -f ENCODING -t UTF-8)"
            )
            return BadRow(number, error, shown)
    if "\0" in whole:
        named = _column(fields, lambda value: "\0" in value)
        return BadRow(number, f"{place}{named} {NUL}", fields)
    if len(values) != len(header):
        error = (
            f"{place} has {len(values)} values and the header has {len(header)} columns "
            f"({', '.join(header)}); put values that hold the delimiter in double quotes"
        )
        return BadRow(number, error, fields)
    return Row(number, fields, place)


def _column(fields: dict[str, str], fault: Callable[[str], bool]) -> str:
    """Names the column with a fault; nothing if it is in a value beyond the columns."""
    return next((f", column {name!r}" for name, value in fields.items() if fault(value)), "")


def _shown(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _broken(value: str) -> bool:
    return _shown(value).encode() != value.encode("utf-8", "surrogateescape")


def _advice(problem: str) -> str:
    if "unexpected end of data" in problem or "field larger" in problem:
        return "the double quote that opens here is not closed; close it, or write it twice"
    return f"{problem}; write a double quote inside a quoted value twice"
