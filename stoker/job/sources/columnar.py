"""Parquet and Arrow, and the folders that Hugging Face datasets are saved in, by pyarrow.

Read a record batch at a time. What JSON has no place for (times, decimals, bytes) becomes text.
Knows nothing of prompts.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources.base import FileSource, Rows
from stoker.job.sources.streams import arrow, unpacked_file

BATCH = 512  # rows turned into Python objects at once
PLAIN = (str, bool, int)


class Columnar(FileSource):
    """Files of record batches. A row's number counts through all of them.

    Args:
        paths, name: as for any file.

    Raises:
        JobError: a file can't be read, or two columns have one name.
    """

    def __init__(self, paths: Sequence[Path], name: str = "") -> None:
        super().__init__(paths, name)
        self._unpacked = [unpacked_file(path) for path in self.paths]
        arrow(f"{self.name}: Parquet and Arrow files")

    def rows(self) -> Rows:
        number = 0
        for path in self.paths:
            with self._errors(path, number):
                for batch in self._batches(path):
                    for row in _lists(batch):
                        number += 1
                        place = f"{self.name}, row {number}"
                        if row is None:
                            error = f"{place} holds text that is not UTF-8; store it as text"
                            yield BadRow(number, error, {})
                        else:
                            yield Row(number, row, place)

    def count(self) -> int:
        total = 0
        for path in self.paths:
            with self._errors(path, total):
                total += self._length(path)
        return total

    @contextmanager
    def _errors(self, path: Path, number: int) -> Iterator[None]:
        pa = arrow("these files")
        try:
            yield
        except (pa.ArrowException, OSError) as problem:
            raise JobError(
                f"{path} is damaged or cut off: {problem}; make or fetch it again"
            ) from None

    def _length(self, path: Path) -> int:
        raise NotImplementedError

    def _batches(self, path: Path) -> Iterator[Any]:
        raise NotImplementedError

    def _file(self, path: Path) -> str:
        return str(self._unpacked[self.paths.index(path)][0])

    def _check(self, schema: Any) -> None:
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise JobError(f"{self.name}: two columns are called {twice[0]!r}; rename one of them")


class Parquet(Columnar):
    """Parquet files."""

    form = "parquet"

    def _length(self, path: Path) -> int:
        import pyarrow.parquet as pq

        return int(pq.read_metadata(self._file(path)).num_rows)

    def _batches(self, path: Path) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._file(path), memory_map=True, pre_buffer=False) as file:
            self._check(file.schema_arrow)
            yield from file.iter_batches(BATCH, use_threads=False)


class Arrow(Columnar):
    """Arrow files, with an index at their end or as a stream (which is what datasets saves)."""

    form = "arrow"

    def _length(self, path: Path) -> int:
        return sum(batch.num_rows for batch in self._whole(path))

    def _batches(self, path: Path) -> Iterator[Any]:
        for batch in self._whole(path):
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)

    def _whole(self, path: Path) -> Iterator[Any]:
        """The batches, memory-mapped."""
        pa: Any = arrow("Arrow files")
        from pyarrow import ipc

        with pa.memory_map(self._file(path)) as memory:
            start = memory.read(6)
            memory.seek(0)
            reader: Any = ipc.open_file(memory) if start == b"ARROW1" else ipc.open_stream(memory)
            self._check(reader.schema)
            if start == b"ARROW1":
                for at in range(reader.num_record_batches):
                    yield reader.get_batch(at)
            else:
                yield from reader


def dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder written by `Dataset.save_to_disk`, in order.

    Raises:
        JobError: the folder holds several splits, or lacks one of its files.
    """
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        known = ", ".join(str(folder / name) for name in _json(splits).get("splits", []))
        raise JobError(f"{folder} holds a dataset of several splits; name one of {known}")
    state = folder / "state.json"
    if not state.is_file():
        return sorted(folder.glob("*.arrow"))
    names = [entry["filename"] for entry in _json(state).get("_data_files", [])]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise JobError(f"{folder} lacks {missing[0]}, which its state.json lists; fetch it again")
    return [folder / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise JobError(f"cannot read {path}: {problem}; save the dataset again") from None
    return found if isinstance(found, dict) else {}


def _lists(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The batch's rows; None for one whose text is no UTF-8."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            yield None
            return
        for at in range(batch.num_rows):
            yield from _lists(batch.slice(at, 1))
        return
    for row in rows:
        yield {name: plain(value) for name, value in row.items()}


def plain(value: Any) -> Any:
    """A value of a column as JSON can hold it; what is not a number becomes null."""
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)
