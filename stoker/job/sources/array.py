"""A JSON array of objects, read an element at a time.

The text is cut at the commas between elements by a scan for strings and brackets, so that a
broken element is a bad row and the next ones are still found. Knows nothing of prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from stoker.job.rows import BadRow
from stoker.job.sources.base import CHUNK, LARGEST, FileSource, Rows
from stoker.job.sources.lines import BOM, json_row
from stoker.job.sources.streams import opened

MARK = re.compile(rb'["\\\[\]{},\n]')
BLANK = b" \t\r\n"


class JsonArray(FileSource):
    """The elements of a JSON array. A row's number is its place in the array."""

    form = "json"

    def rows(self) -> Rows:
        with opened(self.paths[0]) as file:
            for number, (line, element) in enumerate(_elements(file), 1):
                place = f"{self.name}, element {number} (line {line})"
                if element is None:
                    error = (
                        f"{place}: the array ends before this; if each line is an array, make each "
                        'an object ({"messages": [...]}) and name the file .jsonl'
                    )
                    yield BadRow(number, error, {})
                else:
                    yield json_row(number, element, place)


def _elements(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Each element's first line and bytes; None in place of what follows the array's end.

    Of an element longer than `LARGEST` a beginning longer than that is given.
    """
    depth, quoted, skip = 0, False, -1
    line, first, done = 1, 1, False
    held = bytearray()  # of the present element
    offset = 0  # of the chunk in the file
    while chunk := file.read(CHUNK):
        if offset == 0:
            chunk = chunk.removeprefix(BOM)
        start = 0
        for found in MARK.finditer(chunk):
            at, mark = found.start(), found[0]
            if mark == b"\n":
                line += 1
            if offset + at == skip:
                continue
            if quoted:
                if mark == b"\\":
                    skip = offset + at + 1
                elif mark == b'"':
                    quoted = False
            elif mark == b'"':
                quoted = True
            elif mark in b"[{":
                depth += 1
                if depth == 1 and not done:
                    start, first = at + 1, line
            elif mark in b"]}":
                depth -= 1
            ends = (mark == b"," and depth == 1) or (mark in b"]}" and depth <= 0)
            if quoted or done or not ends:
                continue
            held += chunk[start:at]
            start = at + 1
            if held.strip(BLANK) or mark == b",":
                yield _first_line(held, first), bytes(held.strip(BLANK))
            held.clear()
            first = line
            done = depth <= 0
        rest = chunk[start:]
        if done and rest.strip(BLANK):
            yield line, None
            return
        if len(held) <= LARGEST:
            held += rest
        offset += len(chunk)
    if not done and held.strip(BLANK):
        yield _first_line(held, first), bytes(held.strip(BLANK))


def _first_line(held: bytearray, line: int) -> int:
    """The line of the element's first byte that is no blank."""
    blank = len(held) - len(held.lstrip(BLANK))
    return line + held.count(b"\n", 0, blank)
