"""Compares two runs row by row: what agrees, what changed, and which statuses did.

Knows output rows. Memory depends on the number of rows alone, by eight bytes each.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.job.expect import Accuracy, Expect
from stoker.job.report import RESULT
from stoker.job.result_texts import answers, own_columns
from stoker.report.outputs import OutputRow, RowFinder, read_output


@dataclass
class Comparison:
    """The totals of two runs side by side.

    Attributes:
        both: rows that both have; `same` of them have the same status and the same answer.
        only_a, only_b: rows that one of them has.
        other_input: rows of both whose input columns differ; their answers are compared, too.
        statuses: rows of both whose status changed, by the two statuses.
        accuracy: of each run over the rows that both have, where an answer is expected.
    """

    both: int = 0
    same: int = 0
    only_a: int = 0
    only_b: int = 0
    other_input: int = 0
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    accuracy: tuple[Accuracy, Accuracy] | None = None

    @property
    def agreement(self) -> float:
        """The share of the rows of both that are the same."""
        return self.same / self.both if self.both else 0.0


def compare(
    a: Path,
    b: Path,
    totals: Comparison,
    expect: Expect | None = None,
    keys: tuple[str, str] = (RESULT, RESULT),
) -> Iterator[tuple[OutputRow, OutputRow]]:
    """The rows that differ, in the order of `a`; `totals` is complete when they are read.

    A row is the same if its status and its answer (text or embedding) are.

    Args:
        a, b: the outputs.
        totals: is counted up.
        expect: what answers are compared with.
        keys: the columns that hold the results of each.

    Raises:
        JobError: one can't be read.
    """
    if expect:
        totals.accuracy = (Accuracy(expect), Accuracy(expect))
    with RowFinder(b, keys[1]) as others:
        for row in read_output(a, keys[0]):
            other = others[row.number]
            if other is None:
                totals.only_a += 1
                continue
            totals.both += 1
            columns = (own_columns(one.fields) for one in (row, other))
            totals.other_input += not same_value(*columns)
            if totals.accuracy:
                for accuracy, one in zip(totals.accuracy, (row, other), strict=True):
                    accuracy.add(one.fields, one.result)
            old, new = row.result["status"], other.result["status"]
            if old != new:
                totals.statuses[old, new] += 1
            if old == new and answer(row) == answer(other):
                totals.same += 1
            else:
                yield row, other
        totals.only_b = others.rows - totals.both


def same_value(a: Any, b: Any) -> bool:
    """Whether two values from an input are the same, though one may have gone through Parquet.

    There what is absent is null, and values without a common type are text, JSON where they
    were none.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return all(same_value(a.get(name), b.get(name)) for name in a.keys() | b.keys())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, str) != isinstance(b, str) and None not in (a, b):
        text, value = (a, b) if isinstance(a, str) else (b, a)
        return bool(text == json.dumps(value))
    return bool(a == b)


def answer(row: OutputRow) -> object:
    """What a run made of a row: its texts, or its embedding."""
    return row.result.get("embedding", answers(row.fields, row.result))
