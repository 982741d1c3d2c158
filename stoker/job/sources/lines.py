"""JSON Lines and plain text: a row in each line; blank lines are passed over.

A line that is no good becomes a `BadRow`. Knows nothing of prompts.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import IO, Any

from stoker.job.rows import BadRow, Row
from stoker.job.sources.base import LARGEST, FileSource, Rows
from stoker.job.sources.streams import opened_lines

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
WANTED = 'it must be an object such as {"prompt": "..."}'
NUL = "holds a NUL byte, which is no text; take it out (tr -d '\\000' < FILE)"
DEEPEST = 100  # levels of lists and objects in a row; what handles rows goes down level by level
SHOWN = 200  # characters of a line that is too long to keep


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


# NaN and infinity are no JSON, under that name or as 1e999
DECODER = json.JSONDecoder(parse_constant=lambda name: None, parse_float=_finite)


class JsonLines(FileSource):
    """A JSON object in each line. A row's number is that of its line."""

    form = "jsonl"

    def rows(self) -> Rows:
        with opened_lines(self.paths[0]) as file:
            for number, line in numbered(file):
                yield json_row(number, line, f"{self.name}, line {number}")

    def count(self) -> int:
        return _count(self)


class TextLines(FileSource):
    """A prompt in each line, as the column `text`. A row's number is that of its line."""

    form = "text"

    def rows(self) -> Rows:
        with opened_lines(self.paths[0]) as file:
            for number, line in numbered(file):
                yield text_row(number, line.rstrip(b"\r\n"), f"{self.name}, line {number}", {})

    def count(self) -> int:
        return _count(self)


def numbered(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1.

    Of a line longer than `LARGEST` a beginning that is longer still than `LARGEST` is given.
    """
    number = 0
    while line := file.readline(LARGEST + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if len(line) > LARGEST and not line.endswith(b"\n"):
            while (more := file.readline(LARGEST)) and not more.endswith(b"\n"):
                pass
        if line.strip():
            yield number, line


def json_row(number: int, line: bytes, place: str) -> Row | BadRow:
    """A row from the text of a JSON object."""
    bad = too_long(number, line, place) or not_utf8(number, line, place)
    if bad is not None:
        return bad
    text = line.decode().strip().removeprefix("\ufeff")  # of a file that was appended
    try:
        fields: Any = DECODER.decode(text)
    except (ValueError, RecursionError) as problem:
        return BadRow(
            number, f"{place} is not valid JSON: {_why(problem)}; {WANTED}", {"line": text}
        )
    if not isinstance(fields, dict):
        what = "a list" if isinstance(fields, list) else "a single value"
        return BadRow(number, f"{place} holds {what}; {WANTED}", {"line": text})
    if text.count("[") + text.count("{") > DEEPEST and _deep(fields):
        error = f"{place} is nested too deeply: more than {DEEPEST} levels of lists and objects"
        return BadRow(number, error, {"line": text})
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            error = f"{place} holds half a surrogate pair (\\ud...), which is no character"
            return BadRow(number, error, fields)
    return Row(number, fields, place)


def _deep(value: Any) -> bool:
    """Whether a value has more than `DEEPEST` levels; found without going down in calls."""
    level = [value]
    for _ in range(DEEPEST):
        lists = [one if isinstance(one, list) else [*one.values()] for one in level]
        level = [child for one in lists for child in one if isinstance(child, list | dict)]
        if not level:
            return False
    return True


def _why(problem: Exception) -> str:
    """What is wrong with a JSON text, and where in it."""
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    if not isinstance(problem, json.JSONDecodeError):
        most = sys.get_int_max_str_digits()
        return f"a whole number in it has more than {most} digits; write it as text, in quotes"
    line = f"line {problem.lineno} of it, " if problem.lineno > 1 else ""
    return f"{problem.msg} at {line}column {problem.colno}"


def text_row(number: int, text: bytes, place: str, fields: dict[str, Any]) -> Row | BadRow:
    """A row whose column `text` is the prompt, beside `fields`."""
    bad = too_long(number, text, place) or not_utf8(number, text, place)
    if bad is not None:
        return BadRow(number, bad.error, {**fields, **bad.fields})
    if b"\0" in text:
        return BadRow(number, f"{place} {NUL}", {**fields, "text": text.decode()})
    return Row(number, {**fields, "text": text.decode()}, place, "text")


def too_long(number: int, line: bytes, place: str) -> BadRow | None:
    """A bad row if there is more than a row may have."""
    if len(line) <= LARGEST:
        return None
    error = f"{place} is longer than {LARGEST >> 20} MiB; are line breaks missing?"
    return BadRow(number, error, {"line": line[:SHOWN].decode("utf-8", "replace")})


def not_utf8(number: int, line: bytes, place: str) -> BadRow | None:
    """A bad row if the bytes are no UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError as problem:
        error = (
            f"{place} is not UTF-8: byte 0x{line[problem.start]:02x} at position "
            f"{problem.start + 1}; convert the file (iconv -f ENCODING -t UTF-8)"
        )
        if line.startswith(UTF16):
            error = f"{place} is UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8)"
        return BadRow(number, error, {"line": line.decode("utf-8", "replace").strip("\r\n")})
    return None


def _count(source: FileSource) -> int:
    with opened_lines(source.paths[0]) as file:
        return sum(1 for _ in numbered(file))
