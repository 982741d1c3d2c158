"""What a job is to do: one frozen dataclass, and which of it a result follows from.

Made by the command line or a user of the Python face, read by the job. Loads no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.config import SHORT_FORMS, resolve_dtype
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.errors import InvalidRequestError, suggest
from stoker.job.output_format import STDOUT, OutputFormat, output_format
from stoker.job.prompts import PromptSettings
from stoker.job.report import RESULT, STATUSES
from stoker.job.sources import Part, Shard, Source, open_source

# Results do not depend on these, so they may change between runs of one job. The format that was
# read is compared instead of the one that was asked for (state.py).
FREE = (
    "input",
    "output",
    "model",
    "restart",
    "retry",
    "limit",
    "strict",
    "dedup",
    "format",
    "read_ahead",
)
# sampling parameters that job.json has at other values than their defaults only, since jobs were
# begun before there were any
LATER = ("include_stop_str_in_output", "skip_special_tokens")


@dataclass(frozen=True)
class JobSettings:
    """What to run over which file.

    Attributes:
        input: a file, a folder or "-", as `open_source` takes it.
        output: where results go; its name says the format (output_format.py). "-" is standard
            output, from which no job can be continued.
        params: sampling parameters of the rows that have none of their own.
        seed: row r's random stream derives from (seed, r).
        raw: complete the prompt as it is, without the chat template.
        restart: replace an existing output.
        pooling: embed the rows this way instead of completing them.
        model: what is loaded for the job; with it a job that can't go on is refused before.
        dtype: the engine's arithmetic, as it was asked for.
        quantization: how its weights are stored, likewise.
        kv_dtype: of its cached keys and values, likewise.
        expert_mask, active_experts: of its experts, likewise.
        device: where it computes, which decides what dtype "auto" is.
        ordered: write the output in the order of the input.
        limit: take the first so many rows of the input and leave the others.
        strict: stop at the first row that has no answer.
        retry: run again the rows that an earlier run gave one of these statuses.
        result_key: the column that results are added under.
        timings: add the seconds queued and running to each result.
        dedup: compute identical prompts once where no random stream is drawn from.
        read_ahead: rows that the engine knows of at a time, what its policy chooses from. No step
            runs before so many have been read. None is four times the sequences that run at once.
        format: of the input, a key of `FORMATS`; "auto" tells it by content and extension.
        delimiter: between the values of a CSV input; None finds it out.
        prompts: how a prompt is made of a row's columns.
        sample: take that many rows, drawn by the seed; None takes all.
        shard: take one block of them; None takes all.

    Raises:
        InvalidRequestError: a value is out of range, or a status is unknown.
    """

    input: Path
    output: Path
    params: SamplingParams
    seed: int = 0
    raw: bool = False
    restart: bool = False
    pooling: PoolingParams | None = None
    model: str | None = None
    dtype: str = "auto"
    quantization: str = "auto"
    kv_dtype: str = "auto"
    expert_mask: str | None = None
    active_experts: float | tuple[int, ...] | None = None
    device: str = "cpu"
    ordered: bool = False
    limit: int | None = None
    strict: bool = False
    retry: tuple[str, ...] = ()
    result_key: str = RESULT
    timings: bool = False
    dedup: bool = True
    read_ahead: int | None = None
    format: str = "auto"
    delimiter: str | None = None
    prompts: PromptSettings = field(default_factory=PromptSettings)
    sample: int | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        for status in self.retry:
            if status not in STATUSES:
                raise InvalidRequestError(
                    f"retry: {status!r} is no status; {suggest(status, [*STATUSES])}"
                )
        if self.limit is not None and self.limit < 1:
            raise InvalidRequestError(f"limit must be at least 1, not {self.limit}")
        if self.read_ahead is not None and self.read_ahead < 1:
            raise InvalidRequestError(f"read_ahead must be at least 1, not {self.read_ahead}")
        if not self.result_key:
            raise InvalidRequestError("result_key is empty; results need a name")
        if self.retry and self.restart:
            raise InvalidRequestError(
                "retry runs some rows again and restart all of them; give one of the two"
            )

    @property
    def output_format(self) -> OutputFormat:
        """What is written; raises JobError if the output's name says what cannot be."""
        return output_format(self.output)

    @property
    def to_stdout(self) -> bool:
        return self.output == STDOUT

    @property
    def staged(self) -> bool:
        """Whether results are kept in a journal beside the output, which is made from it."""
        return self.ordered or self.output_format.made

    def source(self) -> Source:
        """The rows of the input that the job is about; `limit` is not in it.

        Raises:
            JobError: the input can't be read.
        """
        source = open_source(self.input, self.format, self.delimiter)
        if self.sample is None and self.shard is None:
            return source
        return Part(source, self.sample, self.shard, self.seed)

    def described(self) -> dict[str, Any]:
        """All that results follow from beside input and model, as plain data."""
        told = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name not in FREE
        }
        told |= _stored(self.dtype, told.pop("quantization"))
        told["device"] = self.device.partition(":")[0]  # which GPU of several changes nothing
        told["prompts"] = _plain(self.prompts)
        del told["prompts"]["origin"]  # where a template was read from changes nothing
        if not self.prompts.chat_template_kwargs:  # jobs begun before there were any go on
            del told["prompts"]["chat_template_kwargs"]
        for name in ("delimiter", "expert_mask", "active_experts"):
            if told[name] is None:  # jobs begun before there were any go on
                del told[name]
        if self.expert_mask is not None:
            told["expert_mask"] = {
                "file": self.expert_mask,
                "sha256": mask_digest(self.expert_mask),
            }
        told["params"] = {
            name: value
            for name, value in _plain(self.params).items()
            if name not in LATER or value != getattr(SamplingParams, name)
        }
        plain: dict[str, Any] = json.loads(json.dumps(told, default=_plain))
        return plain


def mask_digest(path: str) -> str:
    """The SHA-256 of an expert mask; raises InvalidRequestError if it can't be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as problem:
        raise InvalidRequestError(f"expert_mask {path} can't be read: {problem}") from None


def _stored(dtype: str, quantization: str) -> dict[str, str]:
    """dtype and quantization as job.json has them: by the short form where there is one.

    So a job begun with --dtype int8 goes on with --quantization int8, and one begun before
    quantization was a setting goes on too.
    """
    dtype, quantization = resolve_dtype(dtype, quantization)
    if quantization == "auto":
        return {"dtype": dtype}
    if quantization in SHORT_FORMS:
        return {"dtype": quantization}
    return {"dtype": dtype, "quantization": quantization}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return getattr(value, "__qualname__", None) or str(value)
