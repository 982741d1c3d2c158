"""Write rows as Parquet. A column's type depends on all its values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

BATCH = 4096  # rows of a Parquet row group


def write_parquet(lines: Callable[[], Iterable[bytes]], path: Path) -> None:
    """Write the rows to a new file.

    Args:
        lines: gives the rows as lines of JSON; called twice, since types come first.
        path: of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[list[dict[str, Any]]]:
        rows = map(json.loads, lines())
        while some := list(islice(rows, BATCH)):
            yield some

    types: dict[str, pyarrow.DataType | None] = {}
    for rows in batches():
        for name in {name: None for row in rows for name in row}:
            found = _type([row.get(name) for row in rows])
            types[name] = _joined(types[name], found) if name in types else found
    while True:
        fields = [(name, pa.string() if kind is None else kind) for name, kind in types.items()]
        schema = pa.schema([(_in_utf8(name), kind) for name, kind in fields])
        try:
            with pq.ParquetWriter(path, schema) as writer:
                for rows in batches():
                    columns = [
                        _column(name, [row.get(name) for row in rows], types[name], kind)
                        for name, kind in fields
                    ]
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            return
        except _MisfitError as problem:
            types[problem.column] = None


def _in_utf8(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


class _MisfitError(Exception):
    """A column has a value that its type cannot hold, such as 2**60 + 1 among floats."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def _type(values: list[Any]) -> pyarrow.DataType | None:
    """The type of a column's values; None if they have none in common, or Parquet lacks it."""
    import pyarrow as pa

    try:
        kind = pa.array(values).type
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None
    return None if _hollow(kind) else kind


def _hollow(kind: pyarrow.DataType) -> bool:
    """Whether it has a structure without fields, which Parquet can't hold."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return _hollow(kind.value_type)
    if not pa.types.is_struct(kind):
        return False
    return kind.num_fields == 0 or any(_hollow(field.type) for field in kind)


def _joined(a: pyarrow.DataType | None, b: pyarrow.DataType | None) -> pyarrow.DataType | None:
    """A type for the values of both."""
    import pyarrow as pa

    if a is None or b is None or a == b:
        return a if a == b else None
    try:
        both = [pa.schema([("x", kind)]) for kind in (a, b)]
        return pa.unify_schemas(both, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return None


def _column(
    name: str, values: list[Any], kind: pyarrow.DataType | None, stored: pyarrow.DataType
) -> pyarrow.Array:
    """A column's values as they are stored: those without a common type as JSON.

    Raises:
        _MisfitError: their common type cannot hold one of them.
    """
    import pyarrow as pa

    if kind is None:
        texts = [
            value if isinstance(value, str) or value is None else json.dumps(value)
            for value in values
        ]
        # what UTF-8 can't hold becomes a question mark
        values = [text and text.encode("utf-8", "replace").decode() for text in texts]
    try:
        return pa.array(values, stored)
    except (pa.ArrowException, OverflowError, UnicodeError):
        raise _MisfitError(name) from None
