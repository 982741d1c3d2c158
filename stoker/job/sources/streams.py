"""Bytes of a file as they are or unpacked (gzip, zstd), and standard input kept in a file.

Compression is told by the first bytes. Knows no format. Called by the sources.
"""

from __future__ import annotations

import functools
import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from stoker.errors import JobError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x2a\x4d\x18"  # follows 0x50 to 0x5f where a zstd file begins with a skippable frame
PACKED = (".gz", ".zst", ".zstd")
HEAD = 1 << 16  # bytes that are looked at to know how lines end


def packed_as(start: bytes) -> str:
    """What a file is packed by that begins with these four bytes; "" is nothing."""
    if start.startswith(GZIP):
        return "gzip"
    # pzstd puts a skippable frame first
    skippable = start[1:] == SKIPPABLE and start[0] >> 4 == 5
    return "zstd" if start == ZSTD or skippable else ""


@contextmanager
def opened(path: Path, raw: bool = False) -> Iterator[IO[bytes]]:
    """The file's content, unpacked unless `raw`.

    Raises:
        JobError: it can't be opened, or reading it failed inside the context.
    """
    try:
        with path.open("rb") as file:
            start = b"" if raw else file.read(4)
            if not raw:
                file.seek(0)
            packing = packed_as(start)
            if packing == "gzip":
                with gzip.open(file, "rb") as unpacked:
                    yield unpacked  # type: ignore[misc]  # a GzipFile reads as any file
            elif packing == "zstd":
                yield _zstd(file)
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        raise JobError(f"{path} is damaged or cut off: {problem}; make or fetch it again") from None
    except IsADirectoryError:
        raise JobError(f"{path} is a folder where a file is expected; name a file in it") from None
    except OSError as problem:
        why = problem.strerror or str(problem)
        raise JobError(f"cannot read {path}: {why}{_remedy(path, problem)}") from None


@contextmanager
def opened_lines(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, unpacked, whose lines end in line feeds.

    Where only carriage returns end them, as on old Macs, each becomes a line feed.

    Raises:
        JobError: as `opened`.
    """
    with opened(path) as file:
        head = file.read(HEAD)
    with opened(path) as file:
        alone = b"\r" in head and b"\n" not in head
        yield io.BufferedReader(_LineFeeds(file)) if alone else file


class _LineFeeds(io.RawIOBase):
    """A file with line feeds in place of carriage returns."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)


def _remedy(path: Path, problem: OSError) -> str:
    if isinstance(problem, FileNotFoundError):
        folder = path.absolute().parent
        if not folder.is_dir():
            return f"; there is no folder {folder}"
        import difflib

        near = difflib.get_close_matches(path.name, [one.name for one in folder.iterdir()], n=1)
        return f"; did you mean {near[0]!r}?" if near else "; check the path"
    if isinstance(problem, PermissionError):
        return "; give yourself the right to read it (chmod u+r)"
    return ""


def _zstd(file: IO[bytes]) -> IO[bytes]:
    pa = arrow("zstd files")
    stream: Any = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return io.BufferedReader(stream)


def arrow(what: str) -> Any:
    """The pyarrow module, imported here because it takes a while.

    Raises:
        JobError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise JobError(f"{what} need the package pyarrow: pip install pyarrow") from None
    return pyarrow


def unpacked_file(path: Path) -> tuple[Path, Any]:
    """A file with the unpacked content, for formats that are not read from front to back.

    Returns:
        its path, and an object at whose end a temporary file goes; None for `path` itself.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if not packed_as(start):
        return path, None
    with opened(path) as stream:
        return spooled(stream)


def spooled(stream: IO[bytes]) -> tuple[Path, Any]:
    """The stream's bytes in a temporary file, which goes with the returned object."""
    spool = tempfile.NamedTemporaryFile(prefix="stoker-")  # noqa: SIM115  # outlives this call
    try:
        shutil.copyfileobj(stream, spool, 1 << 20)
        spool.flush()
    except OSError as problem:
        raise JobError(
            f"cannot keep the input in {spool.name}: {problem.strerror}; set TMPDIR to a folder "
            "with more room"
        ) from None
    return Path(spool.name), spool


@functools.cache
def kept_pipe(path: Path) -> tuple[Path, Any]:
    """A pipe's content, kept in a temporary file since it can be read only once."""
    with opened(path, raw=True) as stream:
        return spooled(stream)


@functools.cache
def standard_input() -> tuple[Path, Any]:
    """Standard input, kept in a temporary file since it can be read only once.

    Raises:
        JobError: it is a terminal, or there is no room for it.
    """
    if sys.stdin.isatty():
        raise JobError(
            "- means standard input, which is a terminal here; pipe something into it, or name "
            "a file"
        )
    return spooled(sys.stdin.buffer)
