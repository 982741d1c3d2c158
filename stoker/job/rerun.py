"""Run one row of an earlier job again, as it was or with changes; no file is written.

What the job was comes from job.json beside its output (state.py). Called by `stoker inspect`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoker.engine.request.params import SamplingParams
from stoker.engine.text.chat_messages import plain_text
from stoker.errors import InvalidRequestError, JobError
from stoker.job.batch_format import CHAT, is_batch
from stoker.job.job import RowRunner
from stoker.job.overrides import BARRED, Overrides
from stoker.job.prefetch import Encoder, PreparedRow
from stoker.job.prompts import PromptBuilder, PromptSettings
from stoker.job.rows import BadRow, Row
from stoker.job.settings import JobSettings
from stoker.job.sources import open_source
from stoker.job.state import FORMAT, sidecar
from stoker.llm.llm import LLM

FILTERS = ("top_k", "top_p", "min_p")  # have no effect at temperature 0


@dataclass(frozen=True)
class RecordedJob:
    """A job as job.json tells it.

    Attributes:
        settings: with the input, output and model of the job; none of what is `FREE` else.
        input_fingerprint, model_fingerprint: of the files it was run with.
        mask_digest: of its expert mask, likewise; None if it had none.
    """

    settings: JobSettings
    input_fingerprint: str
    model_fingerprint: str | None
    mask_digest: str | None


def recorded_job(output: Path) -> RecordedJob:
    """Read the settings of the job that wrote `output`.

    Raises:
        JobError: they are not beside the output, or are damaged or of another version; the job
            made embeddings; it had logits processors, which a file cannot hold.
    """
    path = sidecar(output) / "job.json"
    try:
        known = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise JobError(
            f"{output} cannot be run again: its settings would be in {path}, which is not there"
        ) from None
    except OSError as problem:
        raise JobError(f"cannot read {path}: {problem.strerror}") from problem
    except ValueError:
        raise JobError(f"{path} is damaged: it is not JSON") from None
    try:
        if known["format"] != FORMAT:
            raise JobError(f"{path} is of another version of Stoker (format {known['format']!r})")
        settings, mask = _settings(output, known), known["settings"].get("expert_mask")
        return RecordedJob(settings, known["input"], known["model"], mask and mask["sha256"])
    except (KeyError, TypeError, ValueError) as problem:
        raise JobError(f"{path} is damaged: {type(problem).__name__} {problem}") from None
    except InvalidRequestError as problem:
        raise JobError(f"{path}: {problem}") from None


def _settings(output: Path, known: dict[str, Any]) -> JobSettings:
    told = known["settings"]
    mask = told.get("expert_mask")
    if told["pooling"] is not None:
        raise JobError(f"{output} holds embeddings; only answers can be run again")
    params = dict(told["params"])
    if params["logits_processors"]:
        raise JobError(
            f"the job of {output} had logits processors ({', '.join(params['logits_processors'])}),"
            " which are functions and not in its settings; run the row from Python"
        )
    params = {name: value for name, value in params.items() if name not in BARRED}
    prompts = told["prompts"]
    return JobSettings(
        Path(known["input_name"]),
        output,
        Overrides(SamplingParams()).apply(params, "params"),
        seed=told["seed"],
        raw=told["raw"],
        model=known["model_name"],
        dtype=told["dtype"],
        quantization=told.get("quantization", "auto"),
        kv_dtype=told["kv_dtype"],
        expert_mask=mask and mask["file"],
        active_experts=told.get("active_experts"),
        device=told["device"],
        result_key=told["result_key"],
        dedup=False,
        format=told["format"],
        delimiter=told.get("delimiter"),
        prompts=PromptSettings(
            prompts["template"],
            "the job's template",
            prompts["system"],
            tuple((question, answer) for question, answer in prompts["examples"]),
            prompts.get("chat_template_kwargs", {}),
        ),
    )


def input_row(job: RecordedJob, number: int, fields: dict[str, Any]) -> Row:
    """The input row that a row of the output was made of.

    An output row holds the columns of its input row, except in the OpenAI batch format, where the
    request stands in the input file alone.

    Args:
        number: of the row.
        fields: its columns, as they stand in the output.

    Raises:
        JobError: the input is needed and not there any more, or has changed.
    """
    settings = job.settings
    if settings.prompts.template is not None or not {"custom_id", "response"} <= fields.keys():
        return Row(number, fields, f"row {number}", "text" if settings.format == "text" else "")
    missing = f"row {number} is a response, and its request stands in {settings.input}"
    if not settings.input.exists():
        raise JobError(f"{missing}, which is not there; go to the folder where the job was run")
    source = open_source(settings.input, settings.format, settings.delimiter)
    if source.fingerprint() != job.input_fingerprint:
        raise JobError(f"{missing}, which has changed since")
    row = next(row for row in source.rows() if row.number == number)
    if isinstance(row, BadRow):
        raise JobError(f"row {number} cannot be read from the input: {row.error}")
    return row


def prompt_text(settings: JobSettings, row: Row) -> str:
    """The text that `with_prompt` replaces: the prompt, or the last user message of a chat.

    Raises:
        InvalidRequestError: the row has no such text.
    """
    asked = _builder(settings).ask(row)
    if asked.kind == "prompt_token_ids":
        raise InvalidRequestError(f"{row.place} has token ids, not a text that could be edited")
    if asked.kind == "messages":
        return plain_text(asked.value[_last_user(asked.value, row.place)].get("content"))
    return str(asked.value)


def with_prompt(settings: JobSettings, row: Row, text: str) -> tuple[JobSettings, Row]:
    """Settings and row that make a prompt of `text`; all else about the row stays.

    In a chat, `text` takes the place of the last user message. System message and examples of the
    job come before it as ever.

    Raises:
        InvalidRequestError: the row is a chat without a user message.
    """
    fields = row.fields
    if settings.prompts.template is None and is_batch(fields) and isinstance(fields["body"], dict):
        body = dict(fields["body"])
        if fields["url"] == CHAT:
            body["messages"] = _chat(body.get("messages"), text, row.place)
        else:
            body["prompt"] = text
        return settings, replace(row, fields={**fields, "body": body})
    if settings.prompts.template is None and fields.get("messages") is not None:
        chat = _chat(fields["messages"], text, row.place)
        return settings, replace(row, fields={**fields, "messages": chat})
    # a template that writes the text whatever is in it: a string literal, escaped as in JSON
    literal = "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
    return replace(settings, prompts=replace(settings.prompts, template=literal)), row


def _chat(messages: Any, text: str, place: str) -> list[Any]:
    at = _last_user(messages, place)
    return [*messages[:at], {**messages[at], "content": text}, *messages[at + 1 :]]


def _last_user(messages: Any, place: str) -> int:
    """The index of the last message of the user's."""
    listed = messages if isinstance(messages, list) else []
    for at in range(len(listed) - 1, -1, -1):
        if isinstance(listed[at], dict) and listed[at].get("role") == "user":
            return at
    raise InvalidRequestError(f"{place} is a chat without a user message, so no text to replace")


def _builder(settings: JobSettings) -> PromptBuilder:
    """Makes prompts without what goes before them, for which the model need not be known."""
    prompts = replace(settings.prompts, system=None, examples=(), chat_template_kwargs={})
    return PromptBuilder(prompts, settings.params, chat=False)


def changed_params(
    settings: JobSettings, row: Row, changes: dict[str, Any]
) -> tuple[SamplingParams, SamplingParams]:
    """The row's sampling parameters, and those with `changes`, which count before its own.

    Raises:
        InvalidRequestError: an unknown name, a value out of range, or one without effect.
    """
    try:
        before = _builder(settings).ask(row).params
    except InvalidRequestError:  # a bad row; running it says why
        before = settings.params
    after = Overrides(before).apply(changes, "--again")
    idle = [name for name in FILTERS if name in changes]
    if idle and after.greedy:
        raise InvalidRequestError(
            f"{idle[0]} has no effect at temperature 0, which takes the likeliest token; give a "
            "temperature as well"
        )
    return before, after


def run_again(llm: LLM, settings: JobSettings, row: Row, changes: dict[str, Any]) -> dict[str, Any]:
    """Run one row and return its result, which has the form that a job writes.

    Args:
        llm: the model; its engine must have nothing else to do.
        settings: of the job, perhaps changed.
        row: from `input_row`, perhaps changed.
        changes: sampling parameters that replace those of the job and the row.
    """
    (ready,) = Encoder(llm, settings).encode([row])
    if ready.params is not None and changes:
        ready = dataclasses.replace(ready, params=Overrides(ready.params).apply(changes, "--again"))
    results: list[dict[str, Any]] = []
    batches: list[list[PreparedRow]] = [[ready]]
    runner = RowRunner(llm, settings, lambda _, result: results.append(result))
    runner.run(lambda _: batches.pop() if batches else None, lambda: True)
    return results[0]
