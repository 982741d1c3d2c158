"""Compares answers with a column that says what was expected, and counts accuracy.

Knows rows and texts only. Used by the report while a job runs, and by `stoker inspect`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from stoker.job.result_texts import answers

ALL = "all"  # the group of every row where no column names one
PATIENCE = 0.1  # seconds allowed for searching one answer for one pattern
ARTICLES = re.compile(r"\b(a|an|the)\b")
NUMBER = re.compile(
    r"(?:(?<![\w.])[-+−])?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,4})?"
    r"|(?:(?<![\w.])[-+−])?\.[0-9]+"
)


class NotComparedError(Exception):
    """An answer can't be compared with what its row expects; says what is wrong with the column."""


def exact(answer: str, expected: str) -> bool:
    """Equal apart from whitespace at the ends."""
    return answer.strip() == expected.strip()


def normalized(answer: str, expected: str) -> bool:
    """Equal apart from case, punctuation, whitespace and English articles.

    The rules are those of SQuAD's evaluation (Rajpurkar et al., EMNLP 2016), with Unicode's
    punctuation and compatible characters taken as one.
    """
    return plain(answer) == plain(expected)


def plain(text: str) -> str:
    """A text as `normalized` sees it."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(one for one in text if not unicodedata.category(one).startswith("P"))
    return " ".join(ARTICLES.sub(" ", text).split())


def numeric(answer: str, expected: str) -> bool:
    """The answer's last number has the value of the expected one's last number."""
    wanted = last_number(expected)
    return wanted is not None and last_number(answer) == wanted


def last_number(text: str) -> Decimal | None:
    """The last number in a text, thousands apart by commas or not; None if there is none.

    A minus belongs to the number unless a letter or a digit stands before it: 7-3 ends in 3.
    """
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None


def matches(answer: str, expected: str) -> bool:
    """The expected text is a regular expression that matches somewhere in the answer.

    Raises:
        NotComparedError: it is none, or it backtracks for longer than `PATIENCE`.
    """
    import regex  # Python's own `re` has no time limit

    try:
        return regex.search(expected, answer, timeout=PATIENCE) is not None
    except regex.error:
        raise NotComparedError("holds no valid regular expression") from None
    except TimeoutError:
        raise NotComparedError(f"holds a pattern that takes over {PATIENCE} s") from None


MODES: dict[str, Callable[[str, str], bool]] = {
    "exact": exact,
    "normalized": normalized,
    "numeric": numeric,
    "regex": matches,
}


@dataclass(frozen=True)
class Expect:
    """What answers are compared with.

    Attributes:
        column: the input column that holds the expected answer.
        mode: how they are compared, a key of `MODES`.
        group: a column whose values part the rows into groups; None takes all as one.
    """

    column: str
    mode: str = "exact"
    group: str | None = None

    def group_of(self, fields: dict[str, Any]) -> str:
        found = None if self.group is None else fields.get(self.group)
        return ALL if self.group is None else "none" if found is None else str(found)

    def agree(self, fields: dict[str, Any], answers: list[str]) -> list[bool] | None:
        """Which of the answers are as expected; None if the row has no such column.

        Raises:
            NotComparedError: the mode is regex and the column's pattern is of no use.
        """
        if self.column not in fields or fields[self.column] is None:
            return None
        wanted = str(fields[self.column])
        return [MODES[self.mode](answer, wanted) for answer in answers]


@dataclass
class Accuracy:
    """How many answers were as expected, by group: each of a row's samples counts.

    A row without an answer counts as a wrong one.
    """

    expect: Expect
    compared: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)
    not_compared: Counter[str] = field(default_factory=Counter)  # rows, by what was wrong

    def add(self, fields: dict[str, Any], result: dict[str, Any]) -> bool | None:
        """Count one row; returns whether all its answers were as expected, None if it was not
        compared."""
        try:
            agree = self.expect.agree(fields, answers(fields, result) or [""])
        except NotComparedError as problem:
            self.not_compared[str(problem)] += 1
            return None
        if agree is None:
            return None
        group = self.expect.group_of(fields)
        self.compared[group] += len(agree)
        self.correct[group] += sum(agree)
        return all(agree)

    @property
    def rate(self) -> float:
        """The share of the compared rows that were as expected."""
        return self.correct.total() / (self.compared.total() or 1)

    def as_json(self) -> dict[str, Any]:
        """The counts as plain data."""
        return {
            **vars(self.expect),
            "compared": self.compared.total(),
            "correct": self.correct.total(),
            "groups": {
                name: {"compared": count, "correct": self.correct[name]}
                for name, count in sorted(self.compared.items())
            },
            "not_compared": dict(sorted(self.not_compared.items())),
        }

    def lines(self) -> list[str]:
        """The accuracy as plain text, overall and by group."""
        out = []
        compared = self.compared.total()
        if compared:
            right = self.correct.total()
            out.append(f"accuracy  {self.rate:.1%} ({right} of {compared} as expected)")
        elif not self.not_compared:
            out.append(f"accuracy  no row has a column {self.expect.column!r} to compare with")
        out += [
            f"accuracy  {count} rows not compared: their column {self.expect.column!r} {problem}"
            for problem, count in sorted(self.not_compared.items())
        ]
        if len(self.compared) > 1:
            width = max(map(len, self.compared))
            out += [
                f"          {name:<{width}}  {self.correct[name] / count:6.1%}  ({count})"
                for name, count in sorted(self.compared.items())
            ]
        return out
