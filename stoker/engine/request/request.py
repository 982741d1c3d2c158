"""What goes into the engine (`Request`) and what comes out (`RequestOutput`).

Both are plain data without tensors. Users see the outputs; the faces make the requests.
"""

from __future__ import annotations

import builtins
from collections.abc import Hashable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import NamedTuple

from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.vectors import PromptVectors

MASK_64 = (1 << 64) - 1


class DrawSettings(NamedTuple):
    """What the draws of one completion depend on beside its logits and positions.

    `SamplingParams` says what the parameters mean; `seed` is that of the completion's own stream,
    64 bits without a sign.
    """

    temperature: float
    top_p: float
    min_p: float
    typical_p: float
    top_k: int
    seed: int


@dataclass(frozen=True)
class Request:
    """One prompt with its parameters, as asked.

    Args:
        id: unique among the requests the engine holds.
        prompt_token_ids: at least one id, each below the model's vocabulary size but those of
            vectors (vectors.py).
        params: sampling parameters.
        seed: base of the random streams of its samples, any integer.
        prompt: the text the ids came from, where there was one.
        stream: emit a partial `RequestOutput` after every token.
        pooling: pool the prompt's hidden states and generate nothing.
        prefix_root: what its keys and values follow from beside its tokens. Cached prefixes are
            shared only among requests where this is equal.
        vectors: what the prompt has in place of embeddings of tokens; None for nothing.
    """

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    seed: int = 0
    prompt: str | None = None
    stream: bool = False
    pooling: PoolingParams | None = None
    prefix_root: Hashable = None
    vectors: PromptVectors | None = None

    @property
    def prompt_tokens(self) -> Seq[int]:
        """The ids of the prompt without those of vectors."""
        ids = self.prompt_token_ids
        return ids if self.vectors is None else self.vectors.tokens_of(ids)

    def draw_settings(self, index: int) -> DrawSettings:
        """The settings of sample `index`, whose stream has a seed of its own."""
        asked, seed = self.params, mix(self.seed & MASK_64, index)
        return DrawSettings(
            asked.temperature, asked.top_p, asked.min_p, asked.typical_p, asked.top_k, seed
        )


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability by the model, before any sampling parameter.

    `rank` is 1 for the likeliest; of equally likely tokens the lower id comes first.
    `decoded_token` is the token's own text, with replacement characters for parts of characters;
    `bytes` are what it adds to the text, none for a special token that is left out. So the chosen
    tokens' join to the text's. Both are None where there is no tokenizer.
    """

    logprob: float
    rank: int
    decoded_token: str | None = None
    bytes: builtins.bytes | None = None

    @property
    def is_text(self) -> bool:
        """Return True unless the token is special or has parts of characters."""
        text = self.decoded_token
        return text is None or self.bytes == text.encode("utf-8", "replace")


Logprobs = dict[int, Logprob]  # by token id: the token itself, then the likeliest, best first


@dataclass
class CompletionOutput:
    """One completion.

    Attributes:
        index: its place among the request's outputs.
        text: what was generated, once it has ended; `take_text` gives what there is before.
        token_ids: what was generated, so far.
        finish_reason: "stop", "length", "repetition", "cancelled", "error", or None while
            running.
        cumulative_logprob: sum over the tokens, where log-probabilities are computed.
        logprobs: one entry per token, where asked for.
        error: what went wrong, where the finish reason is "error".
        complete: whether the text is a whole answer by json_schema, regex, grammar or choice; None
            where there is none of these, or while running.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    cumulative_logprob: float | None = None
    logprobs: list[Logprobs] | None = None
    error: str | None = None
    complete: bool | None = None

    def __post_init__(self) -> None:
        self._pieces: list[str] = []  # of a text under way, which nobody has taken yet
        self._taken = 0  # characters

    def grow(self, piece: str) -> None:
        """Add to the text that `take_text` gives. What is joined later costs the same each time."""
        if piece:
            self._pieces.append(piece)

    def take_text(self) -> str:
        """The text that came since the last call; under way only where the request streams."""
        if self.finish_reason is None:
            text = "".join(self._pieces)
            self._taken += len(text)
        else:
            text = self.text[self._taken :]
            self._taken = len(self.text)
        self._pieces.clear()
        return text


@dataclass
class RequestOutput:
    """All completions of a request; `finished` once every one of them has a finish reason.

    `prompt_token_ids` has -1 where the prompt has a vector.
    `prompt_logprobs`, where asked for, has an entry per prompt token, None for the first, and
    is complete with the first generated token.
    `queued_seconds` went by before its first step.
    A pooled request has no completions but a `vector`: its embedding, or a value per label.
    `index` is the prompt's place among those of the call on `LLM`, from 0.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = False
    num_cached_tokens: int = 0
    prompt_logprobs: list[Logprobs | None] | None = None
    vector: list[float] | None = None
    queued_seconds: float = field(default=0.0, compare=False)
    index: int | None = None

    @property
    def error(self) -> str | None:
        """The message of the first completion that failed, None if none did."""
        return next((one.error for one in self.outputs if one.error is not None), None)


def mix(a: int, b: int) -> int:
    """Hash two integers to 64 bits by splitmix64's finaliser (Steele et al., OOPSLA 2014)."""
    z = (a + (b + 1) * 0x9E3779B97F4A7C15) & MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
    return z ^ (z >> 31)
