"""Write rows as CSV: a column for each of the input's, and one for each field of a result.

    {"prompt": "hi", "n": 1, "result": {"row": 1, "text": "a, b", "logprobs": null}}

    prompt,n,result.row,result.text,result.logprobs
    hi,1,1,"a, b",

Text stands as it is and null as nothing; what is neither is JSON. Lines end as RFC 4180 has it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

DELIMITERS = {"csv": ",", "tsv": "\t"}


class _Encoded:
    """A file of text over one of bytes."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "replace"))


class _Columns:
    """The columns of rows, in the order that the input's rows have them, however these come."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, int]] = {}  # the first row with a column, its place there

    def add(self, number: int, values: Iterable[str]) -> None:
        for place, name in enumerate(values):
            before = self._first.get(name)
            if before is None or number < before[0]:
                self._first[name] = (number, place)

    def names(self) -> list[str]:
        return sorted(self._first, key=self._first.__getitem__)


def write_csv(lines: Callable[[], Iterable[bytes]], file: Any, key: str, delimiter: str) -> None:
    """Write the rows.

    Args:
        lines: gives the rows as lines of JSON; called twice, since the header has all columns.
        file: takes the bytes.
        key: the column that holds the results, whose fields become columns of their own.
        delimiter: between values.
    """
    own, results = _Columns(), _Columns()
    for row in map(json.loads, lines()):
        result = row.pop(key)
        own.add(result["row"], row)
        results.add(result["row"], result)
    writer = csv.writer(_Encoded(file), delimiter=delimiter, lineterminator="\r\n")
    names, fields = own.names(), results.names()
    writer.writerow([*names, *(result_column(key, name) for name in fields)])
    for row in map(json.loads, lines()):
        result = row.pop(key)
        writer.writerow([*_cells(row, names), *_cells(result, fields)])


def result_column(key: str, name: str) -> str:
    """The name of the column of a result's field."""
    return f"{key}.{name}"


def _cells(values: dict[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = values.get(name)
        if value is None:
            yield ""
        else:
            yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
