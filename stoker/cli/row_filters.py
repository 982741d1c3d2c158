"""The options of `stoker inspect` that choose rows, and the filter they make. Loads no model."""

from __future__ import annotations

import argparse
import json
import operator
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stoker.errors import ConfigError, suggest
from stoker.job.expect import Accuracy, Expect
from stoker.job.report import STATUSES
from stoker.job.result_texts import as_text

if TYPE_CHECKING:
    from stoker.report.outputs import OutputRow

CONDITION = re.compile(r"(.+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def add_filters(command: argparse.ArgumentParser) -> None:
    """Add the options that choose rows."""
    add = command.add_argument_group("which rows").add_argument
    add(
        "--where",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="rows whose column, or field of the result, has this value; also with !=, and with "
        "<, >, <=, >= for numbers; may be given several times",
    )
    add(
        "--match",
        metavar="TEXT",
        help="rows that have this text in the prompt, the answer or the error, in any case",
    )
    add("--wrong", action="store_true", help="rows whose answer is not as expected (--expect)")


class RowFilter:
    """Lets through the rows that meet all conditions.

    Args:
        args: the options.
        expect: what answers are compared with.
        prompt_of: gives the prompt of a row's columns, for `--match`.

    Raises:
        ConfigError: a condition has no form, or asks for what there is not.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        expect: Expect | None,
        prompt_of: Callable[[dict[str, Any]], str],
    ) -> None:
        names = (args.rows or "").split(",")
        self._statuses = {name.strip() for name in names} - {""}
        for name in self._statuses - {*STATUSES}:
            raise ConfigError(f"--rows: {name!r} is no status; {suggest(name, [*STATUSES])}")
        self._conditions = [_Condition(text) for text in args.where]
        self._match = None if args.match is None else args.match.casefold()
        self._prompt_of = prompt_of
        self._accuracy = None
        if args.wrong:
            if expect is None:
                raise ConfigError("--wrong needs --expect COLUMN, the column with what is right")
            self._accuracy = Accuracy(expect)

    @property
    def active(self) -> bool:
        """Whether any row could be left out."""
        rules = (self._statuses, self._conditions, self._match is not None, self._accuracy)
        return any(rules)

    def __call__(self, rows: Iterator[OutputRow]) -> Iterator[OutputRow]:
        """The rows among `rows` that are let through.

        Raises:
            ConfigError: after the last row, if none of them had a name that `--where` gives.
        """
        for row in rows:
            if self._lets(row):
                yield row
        for condition in self._conditions:
            condition.require_found()

    def _lets(self, row: OutputRow) -> bool:
        met = [one.holds(row) for one in self._conditions]  # each must see every row
        if not all(met) or (self._statuses and row.result["status"] not in self._statuses):
            return False
        if self._match is not None and self._match not in self._text(row):
            return False
        return self._accuracy is None or self._accuracy.add(row.fields, row.result) is False

    def _text(self, row: OutputRow) -> str:
        texts = (self._prompt_of(row.fields), as_text(row.fields, row.result))
        return "\n".join(str(x or "") for x in (*texts, row.result.get("error"))).casefold()


class _Condition:
    """One `--where`: NAME, a comparison, VALUE."""

    def __init__(self, text: str) -> None:
        found = CONDITION.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"--where {text!r} is no condition; write NAME=VALUE, or one of !=, <, >, <=, >="
            )
        self.name, self._sign, self._value = found[1].strip(), found[2], found[3].strip()
        self._number = _number(self._value)
        if self._sign in COMPARE and self._number is None:
            raise ConfigError(f"--where {text!r}: {self._value!r} is no number to compare with")
        self._known: set[str] = set()  # names of rows that lack this one
        self._found = False

    def holds(self, row: OutputRow) -> bool:
        for values in (row.fields, row.result):
            if self.name in values:
                self._found = True
                return self._compare(values[self.name])
        self._known |= {*row.fields, *row.result}
        return self._sign == "!="

    def _compare(self, value: Any) -> bool:
        number = _number(value)
        if self._sign in COMPARE:
            return number is not None and COMPARE[self._sign](number, self._number)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        same = text == self._value or (number is not None and number == self._number)
        return same == (self._sign == "=")

    def require_found(self) -> None:
        if self._known and not self._found:
            raise ConfigError(
                f"--where: no row has {self.name!r}; {suggest(self.name, sorted(self._known))}"
            )


def _number(value: Any) -> float | None:
    """A number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
