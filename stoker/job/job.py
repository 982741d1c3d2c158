"""Runs a model over a file: rows in, one result per row out, as they finish.

Feeds the engine through `LLM` with a bounded number of rows in flight, so memory depends on
those and not on the file. Called by the command line, and by each replica (replicas.py) for the
rows it is sent; knows nothing of terminals.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.engine.request.request import CompletionOutput, Logprobs, Request, RequestOutput, mix
from stoker.errors import InvalidRequestError, JobError
from stoker.job.answer_cache import AnswerCache
from stoker.job.expect import Accuracy, Expect
from stoker.job.fingerprint import model_fingerprint
from stoker.job.interrupt import stop_requests
from stoker.job.journal import count_lines
from stoker.job.lock import locked
from stoker.job.made_output import require_writers
from stoker.job.output import clash, earlier, output_file
from stoker.job.prefetch import Encoder, Feeder, PreparedRow, ReadySource
from stoker.job.prompts import PromptBuilder, check_column, check_prompts
from stoker.job.report import GOOD, Report
from stoker.job.rows import BadRow, Row
from stoker.job.settings import JobSettings
from stoker.job.sources import require_apart, require_rows
from stoker.job.state import State, identity
from stoker.llm.llm import LLM
from stoker.model.checkpoint import resolve_folder

__all__ = ["JobSettings", "RowRunner", "output_file", "prepare_job", "require_place", "run_job"]

Progress = Callable[[Report], None]
Write = Callable[[Row | BadRow, dict[str, Any]], None]

STATUSES = {"length": "length", "error": "failed"}  # by finish reason; "done" for the others


def prepare_job(settings: JobSettings, expect: Expect | None = None) -> Report:
    """Check input, output and what an earlier run has left, before any model is loaded.

    Args:
        settings: the job.
        expect: what answers are compared with.

    Returns: the report of the job. If it is `complete`, all rows have results and are counted in
        it, and there is nothing to run; else its `resumed_rows` are those that an earlier run has
        finished.

    Raises:
        JobError: the input can't be read or has no rows, or lacks the column that answers are
            expected in; the output exists and is not of this job; another process runs the job.
        InvalidRequestError: the parameters ask for something a row's result cannot hold, or a
            template is wrong.
        ModelError: there is no such model.
    """
    if settings.params.prompt_logprobs is not None:
        raise InvalidRequestError("a row's result has no place for prompt_logprobs; leave them out")
    builder = PromptBuilder(settings.prompts, settings.params, not settings.raw)
    source = settings.source()
    count = require_rows(source)
    check_prompts(source, builder)
    if expect is not None:
        check_column(source, expect.column)
    if count is not None and settings.limit is not None:
        count = min(count, settings.limit)
    report = Report(count, input_fingerprint=source.fingerprint(), input_format=source.form)
    report.accuracy = Accuracy(expect) if expect else None
    report.pooled = settings.pooling is not None
    _check_output(settings)
    first = next(source.rows())
    if isinstance(first, Row) and (problem := clash(first, settings)) is not None:
        raise JobError(f"{source.name}: {problem}")
    return _with_earlier(settings, report)


def _check_output(settings: JobSettings) -> None:
    output = settings.output
    if settings.to_stdout:
        if settings.retry:
            raise JobError("nothing is kept of standard output, so no row of it can be retried")
        return
    require_writers(settings.output_format)
    require_place(output, settings.input)


def require_place(output: Path, input_path: Path) -> None:
    """See that a file can be written at `output`.

    Raises:
        JobError: it can't be; it is the input, or would be read as part of it.
    """
    if output.is_dir():
        raise JobError(f"{output} is a folder; name a file in it")
    require_apart(input_path, output)
    if output.exists() and not output.is_file():
        raise JobError(f"{output} is not a file that a job could continue; name one that is")
    if not output.absolute().parent.is_dir():
        raise JobError(f"the folder of {output} does not exist; make it first")
    for path in (output.absolute().parent, output):
        if path.exists() and not os.access(path, os.W_OK):
            raise JobError(
                f"{path} may not be written; give the output a place where it may, or change that"
            )


def _with_earlier(settings: JobSettings, report: Report) -> Report:
    """The report with what an earlier run has left; refuses what can't be continued."""
    if settings.to_stdout:
        if settings.model is not None:
            resolve_folder(settings.model)
        return report
    state = State(settings)
    known = state.load()
    if state.lock.exists():
        with locked(state.lock, state.output):
            pass
    if settings.model is not None:
        report.model_fingerprint = model_fingerprint(resolve_folder(settings.model))
    if known is None or not state.has_rows():
        return report
    state.check(known, identity(report, settings))
    with locked(state.lock, state.output):
        state.adopt()
    report.resumed_rows = count_lines(state.journal)
    if report.total_rows is None or report.resumed_rows < report.total_rows:
        return report
    accuracy = Accuracy(report.accuracy.expect) if report.accuracy else None
    counted = Report(report.total_rows, accuracy=accuracy, pooled=report.pooled)
    state.tell(earlier(settings, counted))
    retried = any(counted.statuses[status] for status in settings.retry)
    finished = not settings.staged or (known.get("finished") and settings.output.exists())
    if counted.rows < report.total_rows or retried or not finished:
        return report
    counted.complete, counted.total_rows = True, counted.rows
    return counted


def run_job(llm: LLM, settings: JobSettings, report: Report, progress: Progress) -> None:
    """Run every row that has no result yet and write one line of output for each.

    On SIGINT and SIGTERM the current step finishes and its results are written.

    Args:
        llm: the model; its engine must have nothing else to do.
        settings: the job.
        report: from `prepare_job`; counts every row.
        progress: called after each step.

    Raises:
        JobError: the output can't be written, is being written by another process, or is of
            another job; a row has no answer and the job is strict.
        InvalidRequestError: the model can't do what is asked.
        KeyboardInterrupt: a signal asked to stop.
    """
    llm.engine.require(settings.pooling.task if settings.pooling else "generate")
    llm.engine.check(settings.params)
    encoder = Encoder(llm, settings)
    with stop_requests() as stopping, output_file(settings, report, llm.plan) as sink:

        def after_step() -> bool:
            sink.flush()
            progress(report)
            return not stopping()

        with Feeder(sink.remaining(), encoder) as feeder:
            RowRunner(llm, settings, sink.write).run(feeder.take, after_step)
        if stopping():
            raise KeyboardInterrupt
        progress(report)


@dataclasses.dataclass
class InFlightRows:
    """Rows in the engine: the one whose request it is, and others that want the same answer."""

    rows: list[Row]
    key: tuple[bytes, str] | None
    added: float


class RowRunner:
    """Takes rows from a source through the engine, a window of them at a time.

    Args:
        llm: the model.
        settings: what to do with a row.
        write: is given each row with its result.
    """

    def __init__(self, llm: LLM, settings: JobSettings, write: Write) -> None:
        self.llm, self.settings, self.write = llm, settings, write
        self._flights: dict[str, InFlightRows] = {}
        self._copies = AnswerCache(settings.params)
        self._by_key: dict[tuple[bytes, str], InFlightRows] = {}
        self._in_flight = 0
        self._window = settings.read_ahead or 4 * llm.plan.max_running
        self._filling = settings.read_ahead is not None
        self._ended = False

    def run(self, rows: ReadySource, after_step: Callable[[], bool]) -> None:
        """Run until all rows are done or `after_step` returns False."""
        engine = self.llm.engine
        try:
            while True:
                self._feed(rows)
                if self._flights:
                    for output in engine.step():
                        self._write_output(self._flights.pop(output.request_id), output)
                if not after_step() or (self._ended and not self._flights):
                    return
        finally:
            for request_id in self._flights:
                engine.cancel(request_id)

    def _feed(self, rows: ReadySource) -> None:
        """Fill the window with what is ready; wait for a batch if nothing is in flight.

        If a number of rows is to be read ahead, wait for all of them the first time.
        """
        while not self._ended and self._in_flight < self._window:
            idle = not self._flights
            batch = rows(idle or self._filling)
            if batch is None:
                self._ended = True
                return
            for ready in batch:
                self._submit(ready)
            if (idle and not self._filling) or not batch:
                return
        self._filling = False

    def _submit(self, ready: PreparedRow) -> None:
        row, ids = ready.row, ready.ids
        if ready.error is not None or isinstance(row, BadRow):
            self._write(row, ready.status, error=ready.error)
            return
        params, pooling = ready.params or self.settings.params, self.settings.pooling
        key = None
        if self.settings.dedup:
            key = self._copies.key(ids, params, pooling is not None)
        if key is not None and self._copied(row, key):
            return
        seed = mix(self.settings.seed, row.number) if params.seed is None else params.seed
        request = Request(
            f"row-{row.number}", tuple(ids), params, seed, ready.text, pooling=pooling
        )
        try:
            self.llm.engine.add(request)
        except InvalidRequestError as problem:
            room = self.llm.engine.scheduler.max_context - (0 if pooling else 1)
            too_long = len(ids) > room
            self._write(row, "too_long" if too_long else "bad_row", error=str(problem))
            return
        flight = InFlightRows([row], key, time.monotonic())
        self._flights[request.id] = flight
        self._in_flight += 1
        if key is not None:
            self._by_key[key] = flight

    def _copied(self, row: Row, key: tuple[bytes, str]) -> bool:
        """Give the row the answer of an identical prompt, now or once that is finished."""
        if (flight := self._by_key.get(key)) is not None:
            flight.rows.append(row)
            self._in_flight += 1
            return True
        if (answer := self._copies.get(key)) is None:
            return False
        self._write(row, **answer, copied=True)
        return True

    def _write_output(self, flight: InFlightRows, output: RequestOutput) -> None:
        self._in_flight -= len(flight.rows)
        answer = self._answer(output)
        if flight.key is not None:
            del self._by_key[flight.key]
            if answer["status"] in GOOD:
                self._copies.put(flight.key, answer)
        seconds = time.monotonic() - flight.added
        queued = min(output.queued_seconds, seconds)
        times: dict[str, Any] = {
            "queued_seconds": round(queued, 3),
            "running_seconds": round(seconds - queued, 3),
        }
        cached = output.num_cached_tokens
        first, *others = flight.rows
        self._write(first, **answer, **times, cached_tokens=cached)
        for row in others:
            self._write(row, **answer, copied=True)

    def _answer(self, output: RequestOutput) -> dict[str, Any]:
        """What a result says whatever ran beside its row."""
        prompt_tokens = len(output.prompt_token_ids)
        if output.vector is not None:
            return {"status": "done", "embedding": output.vector, "prompt_tokens": prompt_tokens}
        found = {STATUSES.get(str(one.finish_reason), "done") for one in output.outputs}
        answer: dict[str, Any] = {
            "status": next(one for one in ("failed", "length", "done") if one in found)
        }
        if len(output.outputs) == 1:
            return {**answer, **_sample(output.outputs[0]), "prompt_tokens": prompt_tokens}
        samples = [_sample(one) for one in output.outputs]
        answer["samples"] = samples
        answer["prompt_tokens"] = prompt_tokens
        answer["output_tokens"] = sum(one["output_tokens"] for one in samples)
        error = next((one.error for one in output.outputs if one.error is not None), None)
        return answer if error is None else {**answer, "error": error}

    def _write(self, row: Row | BadRow, status: str, **details: Any) -> None:
        self.write(row, {"row": row.number, "status": status, **details})


def _sample(one: CompletionOutput) -> dict[str, Any]:
    """One completion as it stands in a result."""
    found: dict[str, Any] = {
        "text": one.text,
        "finish_reason": one.finish_reason,
        "output_tokens": len(one.token_ids),
    }
    if one.logprobs is not None:
        found["cumulative_logprob"] = one.cumulative_logprob
        found["logprobs"] = [_listed(entry) for entry in one.logprobs]
    if one.error is not None:
        found["error"] = one.error
    if one.complete is not None:
        found["complete"] = one.complete
    return found


def _listed(entry: Logprobs) -> list[dict[str, Any]]:
    """One token's log-probabilities as JSON: the token itself first, then the likeliest.

    Bytes are left out where they are those of the text.
    """
    return [
        {
            "id": token,
            "token": one.decoded_token,
            "logprob": one.logprob,
            "rank": one.rank,
            **({} if one.is_text else {"bytes": list(one.bytes or b"")}),
        }
        for token, one in entry.items()
    ]
