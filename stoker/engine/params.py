"""What a request asks of the sampler and when it wants to stop.

Knows no tensors and no tokenizer; made by users, read by the engine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stoker.errors import InvalidRequestError, suggest


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one request, with the names and defaults known from vLLM.

    Args:
        n: completions to draw for the prompt; they share the prompt's cache blocks.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the k likeliest tokens; 0 or -1 keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches it, (0, 1].
        seed: the completion's random stream; None derives one from the engine's seed and the
            request's place. The stream depends on (seed, sample index, position) alone.
        max_tokens: most tokens to generate; None goes on to the end of the context.
        stop: strings that end the completion; the text ends before the first of them.
        stop_token_ids: token ids that end the completion, beside the model's own.
        ignore_eos: go on past the model's end-of-sequence tokens.

    Raises:
        InvalidRequestError: a value is out of range or a keyword is unknown.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop: str | Iterable[str] | None = ()
    stop_token_ids: Iterable[int] | None = ()
    ignore_eos: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> SamplingParams:
        known = [field.name for field in dataclasses.fields(cls)]
        for name in kwargs:
            if name not in known:
                raise InvalidRequestError(
                    f"unknown sampling parameter {name!r}; {suggest(name, known)}"
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else _items("stop", self.stop)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", _items("stop_token_ids", self.stop_token_ids))
        _whole("n", self.n, 1)
        _whole("top_k", self.top_k, -1)
        if self.seed is not None:
            _whole("seed", self.seed, None)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, "; use None for the rest of the context")
        _number("temperature", self.temperature)
        _number("top_p", self.top_p)
        if self.temperature < 0:
            raise InvalidRequestError(
                f"temperature must be 0 (greedy) or more, not {self.temperature!r}"
            )
        if not 0 < self.top_p <= 1:
            raise InvalidRequestError(f"top_p must lie in (0, 1], not {self.top_p!r}; 1 is off")
        for text in self.stop_strings:
            if not isinstance(text, str) or not text:
                raise InvalidRequestError(f"stop must hold non-empty strings, not {text!r}")
        for token in self.stop_ids:
            _whole("stop_token_ids", token, 0)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return self.stop  # type: ignore[return-value]  # a tuple since __post_init__

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.stop_token_ids  # type: ignore[return-value]  # a tuple since __post_init__

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _items(name: str, value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidRequestError(f"{name} must be a list, not {value!r}")
    return tuple(value)


def _whole(name: str, value: Any, least: int | None, advice: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be a whole number, not {value!r}{advice}")
    if least is not None and value < least:
        raise InvalidRequestError(f"{name} must be at least {least}, not {value}{advice}")


def _number(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InvalidRequestError(f"{name} must be a finite number, not {value!r}")
