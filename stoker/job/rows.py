"""What a source gives: a `Row`, or a `BadRow` where a place of the input can't be used.

Plain data that knows no format and no model. Made by the sources (sources/), read by the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of the input, in which no prompt has been looked for yet (prompts.py).

    Attributes:
        number: its place in the input, from 1; its random numbers derive from it.
        fields: its columns, which the output keeps.
        place: where it is, for messages: "in.jsonl, line 7".
        text: the column that is the prompt if nothing else says what is; "" where the format
            has no such column. A line of plain text has one.
        filled: a null in a structure may stand for a field that was absent, as in Parquet and
            Arrow, where all rows have the same fields.
    """

    number: int
    fields: dict[str, Any]
    place: str = ""
    text: str = ""
    filled: bool = False


@dataclass(frozen=True)
class BadRow:
    """A place of the input that can't be used. `fields` holds what could be read of it."""

    number: int
    error: str
    fields: dict[str, Any]
