"""An append-only file of results, one JSON line each, that survives whatever ends the process.

Appends whole lines, makes them durable about once a second from a thread of its own, and reads
them back: a torn end is left out, damage in the middle is refused. Knows nothing of models or
settings. The job writes through it (output.py) and continues from it (state.py).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import JobError

SYNC_EVERY = 0.8  # seconds between fsyncs; with the fsync itself at most a second is at risk
BUFFERED = 1 << 20  # bytes that wait for a flush


class RowSet:
    """A set of row numbers, one bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def add(self, number: int) -> None:
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(self._bits):
            self._bits.extend(bytes(max(at + 1 - len(self._bits), len(self._bits), 64)))
        if not self._bits[at] & bit:
            self._bits[at] |= bit
            self._count += 1

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._bits) and bool(self._bits[at] & 1 << (number & 7))

    def __len__(self) -> int:
        return self._count


@dataclass(frozen=True)
class Entry:
    """One result as it lies in the file, from byte `start` to before byte `end`."""

    start: int
    end: int
    number: int
    fields: dict[str, Any]
    result: dict[str, Any]


def entries(path: Path, key: str) -> Iterator[Entry]:
    """The results in a journal, in the order of the file; a torn end is left out.

    Args:
        path: the journal; none there is the same as an empty one.
        key: the results' place in a line.

    Raises:
        JobError: the file can't be read; a line that is no result comes before one that is, or
            a row comes twice, so this is not what a job wrote.
    """
    seen = RowSet()
    end, bad = 0, 0
    try:
        with path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                start, end = end, end + len(line)
                found = _parse(line, key)
                if found is None:
                    bad = bad or line_number
                    continue
                fields, result = found
                if bad or result["row"] in seen:
                    what = f"line {bad} is no result" if bad else f"row {result['row']} comes twice"
                    raise JobError(
                        f"{path} has been changed or is damaged: {what}; "
                        "fix it, or give --restart to start over"
                    )
                seen.add(result["row"])
                yield Entry(start, end, result["row"], fields, result)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise JobError(f"cannot read {path}: {problem.strerror}") from problem


def _parse(line: bytes, key: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
        result = fields.pop(key)
        whole = isinstance(result["row"], int) and isinstance(result["status"], str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (fields, result) if whole else None


def is_entry(line: bytes, key: str) -> bool:
    """Whether a line is a whole result."""
    return _parse(line, key) is not None


def count_lines(path: Path) -> int:
    """The number of whole lines in a journal, without looking into them."""
    try:
        with path.open("rb") as file:
            return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
    except FileNotFoundError:
        return 0
    except OSError as problem:
        raise JobError(f"cannot read {path}: {problem.strerror}") from problem


def encoded(row: dict[str, Any], indent: int | None = None) -> bytes:
    """A row as a line of JSON in UTF-8; what UTF-8 can't hold (half a surrogate) is escaped.

    What is not a number, or none that is finite, becomes null.
    """
    try:
        text = json.dumps(row, ensure_ascii=False, indent=indent, allow_nan=False)
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(_finite(row), indent=indent).encode() + b"\n"
    except ValueError:
        return encoded(_finite(row), indent)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


class Journal:
    """A journal open for appending.

    Args:
        path: the file, made if it is not there.
        size: bytes of it that are whole lines; what follows is cut.

    Raises:
        JobError: the file can't be opened or written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = self._synced = size
        self._lines: list[bytes] = []
        self._buffered = 0
        self._problem: OSError | JobError | None = None
        self._closing = threading.Event()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            os.ftruncate(self._fd, size)
            sync_folder(path.parent)
        except OSError as problem:
            raise self._named(problem) from problem
        self._thread = threading.Thread(target=self._keep_synced, daemon=True)
        self._thread.start()

    def append(self, line: bytes) -> int:
        """Add a whole line; it reaches the file with the next `flush`.

        Returns: the byte at which it begins.

        Raises:
            JobError: the file can't be written.
        """
        begin = self._size + self._buffered
        self._lines.append(line)
        self._buffered += len(line)
        if self._buffered >= BUFFERED:
            self.flush()
        return begin

    def flush(self) -> None:
        """Write all appended lines to the operating system, or none of them.

        Raises:
            JobError: the file can't be written, or could not be made durable.
        """
        if self._problem is not None:
            raise self._named(self._problem) from self._problem
        if not self._lines:
            return
        data = memoryview(b"".join(self._lines))
        try:
            done = 0
            while done < len(data):
                done += os.write(self._fd, data[done:])
        except BaseException as problem:  # an interruption too: half a batch must not stay
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            if isinstance(problem, OSError):
                self._problem = problem
                raise self._named(problem) from problem
            raise
        self._size += done
        self._lines = []
        self._buffered = 0

    def close(self) -> None:
        """Flush, make everything durable, and close.

        Raises:
            JobError: one of these failed; the complete lines in the file are intact.
        """
        try:
            self.flush()
        finally:
            self._closing.set()
            self._thread.join()
            self._sync()
            os.close(self._fd)
        if self._problem is not None:
            raise self._named(self._problem) from self._problem

    def _keep_synced(self) -> None:
        while not self._closing.wait(SYNC_EVERY):
            self._sync()

    def _sync(self) -> None:
        """Make what the file holds durable, and see that it is still where it was."""
        size = self._size
        try:
            if size != self._synced:
                os.fsync(self._fd)
                self._synced = size
            if not os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                raise FileNotFoundError
        except FileNotFoundError:
            self._problem = self._problem or JobError(
                f"{self.path} has been removed or replaced while the job was writing it; "
                "give the same command again to compute what is no longer there"
            )
        except OSError as problem:
            self._problem = self._problem or problem

    def _named(self, problem: OSError | JobError) -> JobError:
        if isinstance(problem, JobError):
            return problem
        return JobError(
            f"cannot write {self.path}: {problem.strerror}; the finished rows in it are kept, "
            "and the same command goes on from there once this is fixed"
        )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(path: Path, draft: Path) -> Iterator[Path]:
    """A file that takes `path`'s place at once when it is whole, or not at all.

    Args:
        path: what is replaced.
        draft: where the new file is written, on the same file system.

    Raises:
        JobError: it can't be written.
    """
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        target = path.resolve()
        draft.replace(target)
        sync_folder(target.parent)
    except OSError as problem:
        raise JobError(f"cannot write {path}: {problem.strerror or problem}") from problem
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
