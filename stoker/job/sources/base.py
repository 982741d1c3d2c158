"""What every input is to the job: a `Source`. And what all of them share.

Knows no format. The formats are beside it; `open_source` (detect.py) chooses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from stoker.errors import JobError
from stoker.job.rows import BadRow, Row
from stoker.job.sources.streams import opened

LARGEST = 64 << 20  # bytes of one row; a longer one is a bad row, so that memory stays flat
CHUNK = 1 << 20

Rows = Iterator[Row | BadRow]


class Source(Protocol):
    """Rows to read, as often as asked, a few of them in memory at a time."""

    name: str
    form: str  # a key of `FORMATS`

    def fingerprint(self) -> str:
        """A hash of the content, the same wherever the input lies."""

    def rows(self) -> Rows:
        """The rows, with increasing numbers from 1."""

    def count(self) -> int | None:
        """The number of rows, or None where it is not known. Text is read through for it."""


class FileSource:
    """The part of a source that is the same for all files; each format sets `form`.

    Args:
        paths: the files in order, of the same format.
        name: of the input, for messages; that of the only file by default.
    """

    form: str

    def __init__(self, paths: Sequence[Path], name: str = "") -> None:
        self.paths = list(paths)
        self.name = name or self.paths[0].name

    def fingerprint(self) -> str:
        """A hash of the bytes as they lie on disk, file by file.

        Raises:
            JobError: a file can't be read.
        """
        whole = hashlib.blake2b(digest_size=20)
        for path in self.paths:
            one = hashlib.blake2b(digest_size=20)
            with opened(path, raw=True) as file:
                while chunk := file.read(CHUNK):
                    one.update(chunk)
            whole.update(one.digest())
        return f"blake2b:{whole.hexdigest()}"

    def rows(self) -> Rows:
        raise NotImplementedError

    def count(self) -> int | None:
        return sum(1 for _ in self.rows())


def require_apart(path: Path, output: Path) -> None:
    """Refuse an output that would be read as input.

    Raises:
        JobError: it is the input, or lies in the folder that is the input.
    """
    if str(path) == "-" or not path.exists():
        return
    if output.exists() and output.samefile(path):
        raise JobError("input and output are the same file; give the output another name")
    if path.is_dir() and path.resolve() in output.resolve().parents:
        raise JobError(
            f"the output {output} lies in the input folder {path}, where the next run would read "
            "it; put it elsewhere"
        )


def require_rows(source: Source) -> int | None:
    """The source's `count`.

    Raises:
        JobError: it has no row.
    """
    count = source.count()
    if count == 0 or (count is None and next(source.rows(), None) is None):
        raise JobError(f"{source.name} holds no rows; give a file with a prompt in each row")
    return count
