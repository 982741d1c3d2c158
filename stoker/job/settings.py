"""What a job is to do: one frozen dataclass, and which of it a result follows from.

Made by the command line or a user of the Python face, read by the job. Loads no model.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.engine.params import SamplingParams
from stoker.engine.pooling import PoolingParams
from stoker.errors import InvalidRequestError, suggest

STATUSES = ("done", "length", "too_long", "bad_row", "failed")
RESULT = "result"  # the key that results are added under, if no other is asked for

# a result does not follow from these, so they may change between the runs of one job
FREE = ("input", "output", "model", "restart", "retry", "limit", "strict", "dedup")


@dataclass(frozen=True)
class JobSettings:
    """What to run over which file.

    Attributes:
        input: JSON Lines; each row has a prompt, messages, or prompt_token_ids.
        output: JSON Lines, or Parquet if the name ends in .parquet.
        params: sampling parameters of every row; results show one completion each, so n is 1.
        seed: row r's random stream derives from (seed, r).
        raw: complete the prompt as it is, without the chat template.
        restart: replace an existing output.
        pooling: embed the rows this way instead of completing them.
        model: what is loaded for the job; with it a job that can't go on is refused before.
        dtype: the engine's arithmetic, as it was asked for.
        ordered: write the output in the order of the input, at the end.
        limit: take the first so many rows of the input and leave the others.
        strict: stop at the first row that has no answer.
        retry: run again the rows that an earlier run gave one of these statuses.
        result_key: the column that results are added under.
        timings: add the seconds queued and running to each result.
        dedup: compute identical prompts once where no random stream is drawn from.

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
    ordered: bool = False
    limit: int | None = None
    strict: bool = False
    retry: tuple[str, ...] = ()
    result_key: str = RESULT
    timings: bool = False
    dedup: bool = True

    def __post_init__(self) -> None:
        for status in self.retry:
            if status not in STATUSES:
                raise InvalidRequestError(
                    f"retry: {status!r} is no status; {suggest(status, [*STATUSES])}"
                )
        if self.limit is not None and self.limit < 1:
            raise InvalidRequestError(f"limit must be at least 1, not {self.limit}")
        if not self.result_key:
            raise InvalidRequestError("result_key is empty; results need a name")
        if self.retry and self.restart:
            raise InvalidRequestError(
                "retry runs some rows again and restart all of them; give one of the two"
            )

    @property
    def parquet(self) -> bool:
        return self.output.suffix == ".parquet"

    @property
    def staged(self) -> bool:
        """Whether the output is made at the end, from a journal beside it."""
        return self.ordered or self.parquet

    def described(self) -> dict[str, Any]:
        """All that results follow from beside input and model, as plain data."""
        told = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in FREE
        }
        plain: dict[str, Any] = json.loads(json.dumps(told, default=_plain))
        return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return getattr(value, "__qualname__", None) or str(value)
