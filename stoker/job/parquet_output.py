"""Make a job's Parquet output from its journal once the job has finished.

Rows cannot be appended to a Parquet file, and a column's type depends on all its values. One batch
of rows is in memory at a time. The output appears complete or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.errors import JobError
from stoker.job.journal import entries, replacing
from stoker.job.order import InOrder
from stoker.job.settings import JobSettings

if TYPE_CHECKING:
    import pyarrow

BATCH = 4096  # rows of a Parquet row group


def make_output(journal: Path, settings: JobSettings) -> None:
    """Write the job's output.

    Args:
        journal: with all of the job's results.
        settings: the job.

    Raises:
        JobError: the journal can't be read or the output can't be written.
    """
    draft = journal.with_name("output.draft")
    with replacing(settings.output, draft):
        _write_parquet(journal, settings, draft)


def need_parquet() -> None:
    """Raise JobError if Parquet can't be written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise JobError(
            "a .parquet output needs pyarrow; run pip install pyarrow, or name the output .jsonl"
        ) from None


def _lines(journal: Path, settings: JobSettings) -> Iterator[bytes]:
    """The journal's lines, in the order that is asked for."""
    with journal.open("rb") as file:
        if not settings.ordered:
            yield from file
            return
        order = InOrder()
        for entry in entries(journal, settings.result_key):
            order.found(entry.number, entry.start)
        order.expect_no_more()
        for offset in order.take():
            file.seek(offset)
            yield file.readline()


def _write_parquet(journal: Path, settings: JobSettings, draft: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[list[dict[str, Any]]]:
        lines = _lines(journal, settings)
        while some := [json.loads(line) for line in islice(lines, BATCH)]:
            yield some

    types: dict[str, pyarrow.DataType | None] = {}
    for rows in batches():
        for name in {name: None for row in rows for name in row}:
            found = _type([row.get(name) for row in rows])
            types[name] = _joined(types[name], found) if name in types else found
    fields = [(name, pa.string() if kind is None else kind) for name, kind in types.items()]
    schema = pa.schema(fields)
    with pq.ParquetWriter(draft, schema) as writer:
        for rows in batches():
            columns = [
                _column([row.get(name) for row in rows], types[name], kind) for name, kind in fields
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


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
    values: list[Any], kind: pyarrow.DataType | None, stored: pyarrow.DataType
) -> pyarrow.Array:
    """A column's values as they are stored: those without a common type as JSON."""
    import pyarrow as pa

    if kind is None:
        texts = [
            value if isinstance(value, str) or value is None else json.dumps(value)
            for value in values
        ]
        # what UTF-8 can't hold becomes a question mark
        values = [text and text.encode("utf-8", "replace").decode() for text in texts]
    return pa.array(values, stored)
