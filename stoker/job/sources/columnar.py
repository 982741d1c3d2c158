"""Parquet and Arrow, and the folders that Hugging Face datasets are saved in, by pyarrow.

Read a record batch at a time; values.py makes JSON of what is in them. Knows nothing of prompts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources.base import FileSource, Rows
from stoker.job.sources.streams import arrow, unpacked_file
from stoker.job.sources.values import Unreadable, column_values

BATCH = 512  # rows turned into Python objects at once


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
            with self._errors(path):
                for batch in self._batches(path):
                    for fields, bad in _records(batch):
                        number += 1
                        place = f"{self.name}, row {number}"
                        if bad is None:
                            yield Row(number, fields, place, filled=True)
                        else:
                            yield BadRow(number, f"{place}, {bad}", fields)

    def count(self) -> int:
        total = 0
        for path in self.paths:
            with self._errors(path):
                total += self._length(path)
        return total

    @contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        pa = arrow("these files")
        try:
            yield
        except JobError:
            raise
        except pa.ArrowNotImplementedError as problem:
            raise JobError(
                f"{path} holds what cannot be read: {problem}; leave that column out, or store it "
                "in another type"
            ) from None
        except Exception as problem:  # a damaged file makes pyarrow raise whatever it likes
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
        if not schema.names:
            raise JobError(f"{self.name} has no columns; give a file with a prompt in each row")
        twice = _twice(schema.names)
        if twice is not None:
            raise JobError(f"{self.name}: two columns are called {twice!r}; rename one of them")
        for field in schema:
            if (twice := _twice_within(field.type)) is not None:
                raise JobError(
                    f"{self.name}: the column {field.name!r} has two fields called {twice!r}; "
                    "rename one of them"
                )


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
            _validate(batch)
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


def _twice(names: Sequence[str]) -> str | None:
    """A name that comes twice, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _twice_within(kind: Any) -> str | None:
    """The same of the fields of structures in a type, at any depth."""
    children = [kind.field(at) for at in range(kind.num_fields)]
    if arrow("these files").types.is_struct(kind):
        found = _twice([child.name for child in children])
        if found is not None:
            return found
    below = (_twice_within(child.type) for child in children)
    return next((name for name in below if name is not None), None)


def _validate(batch: Any) -> None:
    """Refuse damage that would end the process when a value is read; text may be no UTF-8.

    Raises:
        ArrowInvalid: a batch is inconsistent.
    """
    pa: Any = arrow("Arrow files")
    batch.validate()
    for column in batch.columns:
        if pa.types.is_string(column.type):
            column.view(pa.binary()).validate(full=True)
        elif pa.types.is_large_string(column.type):
            column.view(pa.large_binary()).validate(full=True)
        else:
            column.validate(full=True)


def _records(batch: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Each row's readable values by column, and what is wrong with one of the others."""
    names = batch.schema.names
    columns = [column_values(column) for column in batch.columns]
    doubtful = [
        name for name, one in zip(names, columns, strict=True) if Unreadable in map(type, one)
    ]
    for values in zip(*columns, strict=True):
        fields = dict(zip(names, values, strict=True))
        bad = {name: fields.pop(name) for name in doubtful if type(fields[name]) is Unreadable}
        name = next(iter(bad), None)
        yield fields, None if name is None else f"column {name!r} holds {bad[name].reason}"
