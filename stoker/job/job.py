"""Runs a model over a file: rows in, one result per row out, as they finish.

Feeds the engine through `LLM` with a bounded number of rows in flight, so memory depends on
those and not on the file. Called by the command line, and by each replica (replicas.py) for the
rows it is sent; knows nothing of terminals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stoker.engine.params import SamplingParams
from stoker.engine.pooling import PoolingParams
from stoker.engine.request import Logprobs, Request, RequestOutput, mix
from stoker.errors import InvalidRequestError, JobError, StokerError
from stoker.job.report import Report
from stoker.job.rows import BadRow, Row, count_rows, read_rows
from stoker.llm import LLM

Progress = Callable[[Report], None]
Write = Callable[[Row | BadRow, dict[str, Any]], None]
# gives the next row, or None: there is none now (or ever, if told to wait)
RowSource = Callable[[bool], Row | BadRow | None]

RESULT = "result"  # the key that results are added under
STATUSES = {"length": "length", "error": "failed"}  # by finish reason; "done" for the others


@dataclass(frozen=True)
class JobSettings:
    """What to run over which file.

    Attributes:
        input: JSON Lines; each row has a prompt, messages, or prompt_token_ids.
        output: JSON Lines, written row by row.
        params: sampling parameters of every row; results show one completion each, so n is 1.
        seed: row r's random stream derives from (seed, r).
        raw: complete the prompt as it is, without the chat template.
        restart: replace an existing output.
        pooling: embed the rows this way instead of completing them.
    """

    input: Path
    output: Path
    params: SamplingParams
    seed: int = 0
    raw: bool = False
    restart: bool = False
    pooling: PoolingParams | None = None


def prepare_job(settings: JobSettings) -> Report:
    """Check input and output before any model is loaded.

    Raises:
        JobError: the input can't be read or has no rows; the output exists or has no folder.
        InvalidRequestError: the parameters ask for what a row's result has no place for.
    """
    if settings.params.n > 1 or settings.params.prompt_logprobs is not None:
        raise InvalidRequestError(
            "a job writes one completion per row; leave n and prompt_logprobs out"
        )
    report = Report(count_rows(settings.input))
    if settings.output.exists() and not settings.restart:
        raise JobError(f"{settings.output} exists; give another name, or --restart to replace it")
    if settings.output.exists() and settings.output.samefile(settings.input):
        raise JobError("input and output are the same file; give the output another name")
    if not settings.output.absolute().parent.is_dir():
        raise JobError(f"the folder of {settings.output} does not exist; make it first")
    return report


def run_job(llm: LLM, settings: JobSettings, report: Report, progress: Progress) -> None:
    """Run all rows; every one ends as one line of output with a status.

    Args:
        llm: the model; its engine must have nothing else to do.
        settings: the job.
        report: from `prepare_job`; counts every written row.
        progress: called after each step.

    Raises:
        JobError: the output can't be written.
        InvalidRequestError: the model can't do what is asked.
    """
    llm.engine.require(settings.pooling.task if settings.pooling else "generate")
    rows = read_rows(settings.input)
    with output_file(settings, report) as sink:

        def after_step() -> None:
            sink.flush()
            progress(report)

        RowRunner(llm, settings, sink.write).run(lambda wait: next(rows, None), after_step)
        progress(report)


class OutputFile:
    """Writes results as rows end, and counts them."""

    def __init__(self, file: IO[str], report: Report) -> None:
        self._file, self._report = file, report

    def write(self, row: Row | BadRow, result: dict[str, Any]) -> None:
        line = json.dumps({**row.fields, RESULT: result}, ensure_ascii=False)
        self._file.write(line + "\n")
        self._report.add(row.fields, result)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def output_file(settings: JobSettings, report: Report) -> Iterator[OutputFile]:
    """The job's output, opened anew.

    Raises:
        JobError: it can't be written.
    """
    report.pooled = settings.pooling is not None
    try:
        with settings.output.open("w") as file:
            yield OutputFile(file, report)
    except OSError as problem:
        raise JobError(f"cannot write {settings.output}: {problem.strerror}") from problem


class RowRunner:
    """Takes rows from a source through the engine, a window of them at a time.

    Args:
        llm: the model.
        settings: what to do with a row.
        write: is given each row with its result.
    """

    def __init__(self, llm: LLM, settings: JobSettings, write: Write) -> None:
        self.llm, self.settings, self.write = llm, settings, write
        self._pending: dict[str, Row] = {}
        self._window = 4 * llm.config.max_running
        self._chat = not settings.raw and llm.text.has_chat_template

    def run(self, rows: RowSource, after_step: Callable[[], None]) -> None:
        """Until the source is at its end and nothing is in flight."""
        engine = self.llm.engine
        while self._feed(rows):
            for output in engine.step():
                self._write_output(self._pending.pop(output.request_id), output)
            after_step()

    def _feed(self, rows: RowSource) -> bool:
        """Fill the window; False once nothing is in flight and the input is at its end."""
        while len(self._pending) < self._window:
            row = rows(not self._pending)
            if row is None:
                break
            if isinstance(row, BadRow):
                self._write(row, "bad_row", error=row.error)
            else:
                self._submit(row)
        return bool(self._pending)

    def _submit(self, row: Row) -> None:
        try:
            text, ids = self._encode(row)
        except StokerError as problem:
            bad = isinstance(problem, InvalidRequestError)
            self._write(row, "bad_row" if bad else "failed", error=str(problem))
            return
        seed = mix(self.settings.seed, row.number)
        params, pooling = self.settings.params, self.settings.pooling
        request = Request(f"row-{row.number}", tuple(ids), params, seed, text, pooling=pooling)
        try:
            self.llm.engine.add(request)
        except InvalidRequestError as problem:
            room = self.llm.engine.scheduler.max_context - (0 if pooling else 1)
            too_long = len(ids) > room
            self._write(row, "too_long" if too_long else "bad_row", error=str(problem))
        else:
            self._pending[request.id] = row

    def _encode(self, row: Row) -> tuple[str | None, list[int]]:
        value = row.fields[row.kind]
        if row.kind == "messages":
            return self.llm.text.encode_chat(value)
        if row.kind == "prompt" and self._chat and value:
            return self.llm.text.encode_chat([{"role": "user", "content": value}])
        return self.llm.encode_prompt(value if row.kind == "prompt" else {row.kind: value})

    def _write_output(self, row: Row, output: RequestOutput) -> None:
        counts = {
            "prompt_tokens": len(output.prompt_token_ids),
            "cached_tokens": output.num_cached_tokens,
            "queued_seconds": round(output.queued_seconds, 4),
            "running_seconds": round(output.running_seconds, 4),
        }
        if output.vector is not None:
            self._write(row, "done", embedding=output.vector, **counts)
            return
        one = output.outputs[0]
        details: dict[str, Any] = {
            "text": one.text,
            "finish_reason": one.finish_reason,
            **counts,
            "output_tokens": len(one.token_ids),
        }
        if one.logprobs is not None:
            details["cumulative_logprob"] = one.cumulative_logprob
            details["logprobs"] = [_listed(entry) for entry in one.logprobs]
        if one.error is not None:
            details["error"] = one.error
        self._write(row, STATUSES.get(str(one.finish_reason), "done"), **details)

    def _write(self, row: Row | BadRow, status: str, **details: Any) -> None:
        self.write(row, {"row": row.number, "status": status, **details})


def _listed(entry: Logprobs) -> list[dict[str, Any]]:
    """One token's log-probabilities as JSON: the token itself first, then the likeliest."""
    return [
        {"id": token, "token": one.decoded_token, "logprob": one.logprob, "rank": one.rank}
        for token, one in entry.items()
    ]
