"""Make a job's output from its journal once the job has finished: Parquet, CSV, and what is packed.

Rows cannot be appended to these safely, and what columns there are depends on all rows. One batch
of rows is in memory at a time. The output appears complete or not at all, and the journal, which a
job continues from, stays as it is.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from stoker.errors import JobError
from stoker.job.csv_output import DELIMITERS, write_csv
from stoker.job.journal import entries, replacing
from stoker.job.order import InOrder
from stoker.job.output_format import OutputFormat
from stoker.job.parquet_output import write_parquet
from stoker.job.settings import JobSettings


class Writable(Protocol):
    def write(self, data: bytes, /) -> Any: ...


def make_output(journal: Path, settings: JobSettings) -> None:
    """Write the job's output.

    Args:
        journal: with all of the job's results.
        settings: the job.

    Raises:
        JobError: the journal can't be read or the output can't be written.
    """
    wanted, key = settings.output_format, settings.result_key
    draft = journal.with_name("output.draft")
    with replacing(settings.output, draft):
        if wanted.form == "parquet":
            write_parquet(lambda: _lines(journal, settings), draft)
            return
        with _packed(draft, wanted.packing) as file:
            if wanted.form == "jsonl":
                for line in _lines(journal, settings):
                    file.write(line)
            else:
                write_csv(lambda: _lines(journal, settings), file, key, DELIMITERS[wanted.form])


def require_writers(wanted: OutputFormat) -> None:
    """Raise JobError if the format needs a package that is not here."""
    if wanted.form != "parquet" and wanted.packing != "zstd":
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        name = f".{wanted.form}" if wanted.form == "parquet" else ".zst"
        raise JobError(
            f"a {name} output needs pyarrow; run pip install pyarrow, or name the output .jsonl"
        ) from None


@contextmanager
def _packed(path: Path, packing: str) -> Iterator[Writable]:
    """A new file whose content is packed. Equal content makes equal files."""
    if packing == "zstd":
        import pyarrow as pa

        with pa.output_stream(str(path), compression="zstd") as stream:
            yield stream
        return
    with path.open("wb") as file:
        if packing == "gzip":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed
        else:
            yield file


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
