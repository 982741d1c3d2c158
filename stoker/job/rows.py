"""Reads JSON Lines, one row at a time; a line that is no good becomes a `BadRow`, not an end.

Knows no model. Called by the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import InvalidRequestError

KINDS = ("prompt", "messages", "prompt_token_ids")


@dataclass(frozen=True)
class Row:
    """A usable row: `kind` is the one of `KINDS` that `fields` has; `number` is its line."""

    number: int
    fields: dict[str, Any]
    kind: str


@dataclass(frozen=True)
class BadRow:
    """A line that can't be used. `fields` holds what could be read of it."""

    number: int
    error: str
    fields: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a file, numbered by line from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                yield parse_row(number, line)


def parse_row(number: int, line: bytes) -> Row | BadRow:
    """A row from a line of JSON."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as problem:
        text = line.decode("utf-8", "replace").strip()
        return BadRow(number, f"line {number} is not valid JSON: {problem}", {"line": text})
    if not isinstance(fields, dict):
        return BadRow(number, f"line {number} must hold a JSON object", {"line": fields})
    try:
        return Row(number, fields, _kind(fields))
    except InvalidRequestError as problem:
        return BadRow(number, f"line {number}: {problem}", fields)


def _kind(fields: dict[str, Any]) -> str:
    found = [kind for kind in KINDS if kind in fields]
    if len(found) != 1:
        have = " and ".join(found) if found else ", ".join(sorted(fields)) or "nothing"
        raise InvalidRequestError(f"a row needs exactly one of {', '.join(KINDS)}; it has {have}")
    kind = found[0]
    value = fields[kind]
    wanted = str if kind == "prompt" else list
    if not isinstance(value, wanted):
        name = "text" if kind == "prompt" else "a list"
        raise InvalidRequestError(f"{kind} must be {name}, not {json.dumps(value)[:80]}")
    return kind
