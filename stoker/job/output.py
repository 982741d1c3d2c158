"""A job under way on disk: locked, continued from what is there, its results written safely.

Joins the sidecar (state.py), the journal and the report. Called by the job and by the parent of
replicas; knows no model but by its fingerprint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

from stoker.config import EnginePlan
from stoker.errors import JobError
from stoker.job.batch_format import RESPONSE, is_batch, output_row
from stoker.job.csv_output import DELIMITERS, result_column
from stoker.job.journal import Entry, Journal, RowSet, encoded
from stoker.job.lock import locked
from stoker.job.made_output import make_output
from stoker.job.order import InOrder, OrderedFile
from stoker.job.report import GOOD, Report
from stoker.job.rows import BadRow, Row
from stoker.job.settings import JobSettings
from stoker.job.standard_output import StandardOutput
from stoker.job.state import State, identity

INTERNAL = ("cached_tokens", "copied")  # they depend on what ran beside a row, so not on the row
TIMINGS = ("queued_seconds", "running_seconds")


class Lines(Protocol):
    """Takes results: a `Journal`, or standard output."""

    def append(self, line: bytes, /) -> int: ...

    def flush(self) -> None: ...


class OrderedLines(Protocol):
    """Writes results in the order of the input, out of what took them."""

    order: InOrder

    def advance(self) -> None: ...


class OutputFile:
    """Writes results as rows end, and counts them.

    Args:
        journal: takes the results.
        settings, report: of the job.
        there: the rows that an earlier run has finished.
        ordered: the output, where it is in the order of the input and not the journal itself.
    """

    def __init__(
        self,
        journal: Lines,
        settings: JobSettings,
        report: Report,
        there: RowSet,
        ordered: OrderedLines | None,
    ) -> None:
        self._journal, self._settings, self._report = journal, settings, report
        self._there, self._ordered = there, ordered
        self._left_out = INTERNAL if settings.timings else INTERNAL + TIMINGS

    def write(self, row: Row | BadRow, result: dict[str, Any]) -> None:
        """Append a row's result.

        Raises:
            JobError: the output can't be written, or the row has no answer and the job is strict.
        """
        if self._settings.strict and result["status"] not in GOOD:
            raise JobError(
                f"row {row.number} is {result['status']}: {result.get('error')} "
                "(--strict stops here; finished rows are kept)"
            )
        shown = {name: value for name, value in result.items() if name not in self._left_out}
        key, plain = self._settings.result_key, requests_are_plain(self._settings)
        place = self._journal.append(encoded(output_row(row, shown, key, plain)))
        if self._ordered:
            self._ordered.order.found(row.number, place)
        self._report.add(row.fields, result)

    def flush(self) -> None:
        """Hand all results so far to the operating system; within a second they are durable.

        Raises:
            JobError: the output can't be written.
        """
        self._journal.flush()
        if self._ordered:
            self._ordered.advance()

    def remaining(self) -> Iterator[Row | BadRow]:
        """The rows of the input that are to be run and have no result yet."""
        settings = self._settings
        for row in islice(settings.source().rows(), settings.limit):
            if self._ordered:
                self._ordered.order.expect(row.number)
            if row.number in self._there:
                continue
            problem = clash(row, settings)
            yield row if problem is None else BadRow(row.number, problem, row.fields)


@contextlib.contextmanager
def output_file(
    settings: JobSettings, report: Report, plan: EnginePlan | None = None
) -> Iterator[OutputFile]:
    """The job's output, begun or continued; it is made final when the context ends well.

    Args:
        settings: the job.
        report: from `prepare_job`; counts what is there, and then every written row.
        plan: of the engine that runs it, kept in job.json for those who look; never compared.

    Raises:
        JobError: another process runs the job; what is there is of another job or is damaged;
            the output can't be written.
    """
    report.pooled = settings.pooling is not None
    report.resumed_rows = 0
    if settings.to_stdout:
        with contextlib.closing(StandardOutput(settings.ordered)) as out:
            report.begin()
            try:
                yield OutputFile(out, settings, report, RowSet(), out if settings.ordered else None)
            finally:
                out.flush()
            out.finish()
        return
    now = identity(report, settings)
    told = now if plan is None else {**now, "plan": plan.described()}
    state = State(settings)
    state.load()
    state.make_folder()
    with locked(state.lock, state.output):
        known = state.load()
        if settings.restart:
            state.clear()
        if known is not None and state.has_rows():
            state.check(known, now)
        count = earlier(settings, report)
        order = InOrder() if settings.ordered and not settings.output_format.made else None

        def take(entry: Entry, place: int) -> None:
            count(entry)
            if order:
                order.found(entry.number, place)

        there, size = state.recover(take)
        state.save(told, finished=False)
        report.begin()
        journal = Journal(state.journal, size)
        with contextlib.ExitStack() as stack:
            ordered = None
            try:
                if order:
                    ordered = OrderedFile(settings.output, state.journal, order)
                    stack.callback(ordered.close)
                yield OutputFile(journal, settings, report, there, ordered)
            finally:
                journal.close()
            if ordered:
                ordered.finish()
        if settings.output_format.made:
            make_output(state.journal, settings)
        state.save(told, finished=True)


def earlier(settings: JobSettings, report: Report) -> Callable[[Entry], None]:
    """Gives a function that counts a result of an earlier run, or refuses it to a strict job."""

    def count(entry: Entry) -> None:
        status = entry.result["status"]
        if settings.strict and status not in GOOD and status not in settings.retry:
            raise JobError(
                f"row {entry.number} is {status} since an earlier run: {entry.result.get('error')} "
                f"(--strict stops here; --retry {status} runs it again)"
            )
        report.resume(entry.fields, entry.result)

    return count


def requests_are_plain(settings: JobSettings) -> bool:
    """Whether requests of the OpenAI batch format are rows like others."""
    return settings.prompts.template is not None or settings.pooling is not None


def clash(row: Row | BadRow, settings: JobSettings) -> str | None:
    """Return the error for a row that already has a column with the results' name, or None."""
    key = settings.result_key
    if key in RESPONSE and is_batch(row.fields) and not requests_are_plain(settings):
        return (
            f"a response has {key!r} already, where results go; "
            "give results another name with --result-key"
        )
    taken = key if key in row.fields else None
    if taken is None and settings.output_format.form in DELIMITERS:
        taken = next((name for name in row.fields if name.startswith(result_column(key, ""))), None)
    if taken is None:
        return None
    return (
        f"the row has a column {taken!r} already, where results go; "
        "give results another name with --result-key"
    )
