"""A job under way on disk: locked, continued from what is there, its results written safely.

Joins the sidecar (state.py), the journal and the report. Called by the job and by the parent of
replicas; knows no model but by its fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from stoker.errors import JobError
from stoker.job.fingerprint import model_fingerprint
from stoker.job.finish import make_output
from stoker.job.journal import Entry, Journal, RowSet, encoded
from stoker.job.lock import locked
from stoker.job.report import GOOD, Report
from stoker.job.rows import BadRow, Row
from stoker.job.settings import JobSettings
from stoker.job.source import Source, open_source
from stoker.job.state import State, identity
from stoker.model.checkpoint import resolve_folder

INTERNAL = ("cached_tokens", "copied")  # they depend on what ran beside a row, so not on the row
TIMINGS = ("queued_seconds", "running_seconds")


class OutputFile:
    """Writes results as rows end, and counts them.

    Attributes:
        there: the rows that an earlier run has finished.
    """

    def __init__(
        self, journal: Journal, settings: JobSettings, report: Report, there: RowSet
    ) -> None:
        self.there = there
        self._journal, self._settings, self._report = journal, settings, report
        self._left_out = INTERNAL if settings.timings else INTERNAL + TIMINGS

    def write(self, row: Row | BadRow, result: dict[str, Any]) -> None:
        """Append a row's result.

        Raises:
            JobError: the output can't be written, or the row has no answer and the job is strict.
        """
        if self._settings.strict and result["status"] not in GOOD:
            raise JobError(
                f"row {row.number} is {result['status']}: {result.get('error')} "
                "(--strict stops here; the rows before are kept)"
            )
        shown = {name: value for name, value in result.items() if name not in self._left_out}
        self._journal.append(encoded({**row.fields, self._settings.result_key: shown}))
        self._report.add(row.fields, result)

    def flush(self) -> None:
        """Hand all results so far to the operating system; within a second they are durable.

        Raises:
            JobError: the output can't be written.
        """
        self._journal.flush()


@contextmanager
def output_file(settings: JobSettings, report: Report) -> Iterator[OutputFile]:
    """The job's output, begun or continued; it is made final when the context ends well.

    Args:
        settings: the job.
        report: from `prepare_job`; counts what is there, and then every written row.

    Raises:
        JobError: another process runs the job; what is there is of another job or is damaged;
            the output can't be written.
    """
    report.pooled = settings.pooling is not None
    report.resumed_rows = 0
    model = None if settings.model is None else model_fingerprint(resolve_folder(settings.model))
    now = identity(report.input_fingerprint, model, settings)
    state = State(settings)
    state.load()
    state.make_folder()
    with locked(state.lock, state.output):
        known = state.load()
        if settings.restart:
            state.clear()
        if known is not None and state.has_rows():
            state.check(known, now)
        there, size = state.recover(earlier(settings, report))
        state.save(now, finished=False)
        report.begin()
        journal = Journal(state.journal, size)
        try:
            yield OutputFile(journal, settings, report, there)
        finally:
            journal.close()
        if settings.staged:
            make_output(state.journal, settings)
        state.save(now, finished=True)


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


def remaining(settings: JobSettings, there: RowSet) -> Iterator[Row | BadRow]:
    """The rows of the input that are to be run and have no result yet."""
    for row in islice(open_rows(settings).rows(), settings.limit):
        if row.number in there:
            continue
        if settings.result_key in row.fields:
            yield BadRow(row.number, clash(settings), row.fields)
        else:
            yield row


def open_rows(settings: JobSettings) -> Source:
    """The job's input.

    Raises:
        JobError: it can't be read or holds no row.
    """
    return open_source(settings.input)


def clash(settings: JobSettings) -> str:
    """What is wrong with a row that has a column of the results' name."""
    return (
        f"the row has a column {settings.result_key!r} already, where results go; "
        "give results another name with --result-key"
    )
