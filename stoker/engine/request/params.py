"""What a request asks of the sampler and when it wants to stop.

Knows no tensors and no tokenizer; made by users, read by the engine. What depends on the
model (its vocabulary, its tokenizer) is checked when a request is added, in
`sampling/rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stoker.engine.request.checks import (
    at_most,
    between,
    items,
    known_names,
    number,
    plain,
    share,
    whole,
    yes_or_no,
)
from stoker.engine.request.constraint import Constraint, make_constraint
from stoker.errors import InvalidRequestError

MOST_TOP_K = 2**31 - 1  # keeps all of any vocabulary, as more would, and tensors can hold it
MOST_SAMPLES = 1 << 14  # of a prompt; more would fill the memory before the first token
# Draws divide by the temperature in float32. Below its least normal number a processor may take the
# divisor for 0; beyond its greatest all tokens are equally likely, as they are at it.
LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 2.0**-126, (2 - 2.0**-23) * 2.0**127
# (output token ids of each row, logits (R, V) float32) -> logits (R, V) float32
LogitsProcessor = Callable[[list[list[int]], Any], Any]


@dataclass(frozen=True)
class RepetitionDetectionParams:
    """When a completion counts as caught in a loop.

    It ends, with the finish reason "repetition", once its last tokens are the same pattern
    `min_count` times in a row, for a pattern of `min_pattern_size` to `max_pattern_size` tokens.

    Raises:
        InvalidRequestError: a size is out of range.
    """

    max_pattern_size: int
    min_pattern_size: int = 1
    min_count: int = 3

    def __post_init__(self) -> None:
        whole("min_pattern_size", self.min_pattern_size, 1)
        whole("max_pattern_size", self.max_pattern_size, self.min_pattern_size)
        whole("min_count", self.min_count, 2)


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one request, with the names and defaults known from vLLM.

    They act in this order: logits processors, logit bias, allowed ids, bad words and min tokens;
    penalties; temperature; min-p, top-k, top-p, typical-p; draw. Each filter sees the
    distribution that the ones before it left. Log-probabilities are those of the model's own
    distribution, before any of this.

    Args:
        n: completions to return for the prompt; they share the prompt's cache blocks.
        temperature: 0 is greedy, and so is what float32 does not tell from it (less than 1.2e-38);
            otherwise logits are divided by it.
        top_k: keep the k likeliest tokens; 0 or -1 keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches it, (0, 1].
        seed: the completion's random stream; None derives one from the engine's seed and the
            request's place. The stream depends on (seed, sample index, position) alone.
        max_tokens: most tokens to generate; None goes on to the end of the context.
        stop: strings that end the completion; the text ends before the first of them. They may
            hold special tokens, which the text leaves out: "<|im_end|>".
        include_stop_str_in_output: the text ends behind that stop string instead.
        skip_special_tokens: leave the text of special tokens, such as the end of sequence, out.
        stop_token_ids: token ids that end the completion, beside the model's own.
        ignore_eos: go on past the model's end-of-sequence tokens.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 is off
            (Nguyen et al., 2024).
        typical_p: keep the tokens whose surprise is nearest the expected one, the fewest whose
            probability reaches it, (0, 1] (locally typical sampling, Meister et al., 2023).
        repetition_penalty: divide the positive logits, and multiply the negative ones, of tokens
            in the prompt or the output; 1 is off (CTRL, Keskar et al., 2019).
        presence_penalty: taken from the logit of every token in the output, -2 to 2.
        frequency_penalty: the same, times the number of its occurrences.
        logit_bias: token id -> number added to its logit.
        bad_words: texts, or lists of token ids, that are not to be generated. A text is
            excluded as it is tokenised at the start and after a blank. The prompt's tokens do
            not count as a word's beginning.
        allowed_token_ids: no other token is drawn; None allows all.
        min_tokens: no stop (end of sequence, stop ids and strings, repetition) before so many.
        logprobs: with each token, its log-probability and those of the k likeliest; 0 gives
            the token's own, None nothing.
        prompt_logprobs: the same for the prompt's tokens. Such a request computes its whole
            prompt and takes none of it from the prefix cache.
        best_of: draw so many and return the n with the highest cumulative log-probability.
        repetition_detection: end a completion that is caught in a loop.
        logits_processors: functions (output token ids of R rows, logits (R, V) float32) ->
            logits of the same shape and dtype, on the same device, called in inference mode.
            In a step each is called once over all rows, of all requests, that have it at the
            same place of their lists. It may change the tensor it gets. A row's result must
            not depend on the other rows. If a call fails it is repeated row by row, and the
            rows at fault end with the finish reason "error".
        json_schema: the answer is JSON that follows this schema (a dict, its text, or a pydantic
            model). At most one of this and the next three may be given. The end of sequence and
            stop ids may come only where the answer is complete; where nothing may follow, it
            ends with the reason "stop". `CompletionOutput.complete` tells whether it is whole.
        regex: the whole answer matches this regular expression (Rust's syntax, no look-around).
        grammar: the answer follows this grammar, in llguidance's Lark form or llama.cpp's GBNF.
        choice: the answer is one of these texts.

    Raises:
        InvalidRequestError: a value is out of range, two contradict each other, or a keyword is
            unknown.
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
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    bad_words: Iterable[str | Seq[int]] | None = ()
    allowed_token_ids: Iterable[int] | None = None
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    best_of: int | None = None
    repetition_detection: RepetitionDetectionParams | None = None
    logits_processors: Iterable[LogitsProcessor] | None = ()
    json_schema: Any = None
    regex: str | None = None
    grammar: str | None = None
    choice: Iterable[str] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __new__(cls, *args: Any, **kwargs: Any) -> SamplingParams:
        known_names(cls, kwargs, "sampling parameter")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, value in [*vars(self).items()]:
            if (found := plain(value)) is not value:
                object.__setattr__(self, name, found)
        for name in ("stop_token_ids", "bad_words", "logits_processors"):
            object.__setattr__(self, name, items(name, getattr(self, name)))
        stop = (self.stop,) if isinstance(self.stop, str) else items("stop", self.stop)
        object.__setattr__(self, "stop", stop)
        if self.choice is not None:
            object.__setattr__(self, "choice", items("choice", self.choice))
        constraint = self.constraint
        if constraint is not None:
            if constraint.kind == "json_schema":
                object.__setattr__(self, "json_schema", constraint.text)
            if self.ignore_eos:
                raise InvalidRequestError(
                    f"ignore_eos goes on where {constraint.kind} says that the answer has ended; "
                    "leave one of them out"
                )
        for name in ("include_stop_str_in_output", "skip_special_tokens"):
            yes_or_no(name, getattr(self, name))
        self._check_lengths()
        self._check_filters()
        self._check_tokens()
        for k in ("logprobs", "prompt_logprobs"):
            if getattr(self, k) is not None:
                whole(k, getattr(self, k), 0)
        if self.best_of is not None:
            self._check_best_of(self.best_of)
        for processor in self.processors:
            if not callable(processor):
                raise InvalidRequestError(
                    f"logits_processors must hold functions (token ids, logits) -> logits, "
                    f"not {processor!r}"
                )

    def _check_lengths(self) -> None:
        whole("n", self.n, 1)
        at_most("n", self.n, MOST_SAMPLES)
        if self.seed is not None:
            whole("seed", self.seed, None)
        whole("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None:
            whole("max_tokens", self.max_tokens, 1, "; use None for the rest of the context")
            if self.min_tokens > self.max_tokens:
                raise InvalidRequestError(
                    f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}"
                )
        detect = self.repetition_detection
        if detect is not None and not isinstance(detect, RepetitionDetectionParams):
            raise InvalidRequestError(
                f"repetition_detection must be a RepetitionDetectionParams, not {detect!r}"
            )

    def _check_filters(self) -> None:
        number("temperature", self.temperature)
        if self.temperature < 0:
            raise InvalidRequestError(
                f"temperature must be 0 (greedy) or more, not {self.temperature!r}"
            )
        if 0 < self.temperature < LEAST_TEMPERATURE:
            object.__setattr__(self, "temperature", 0.0)
        elif self.temperature > GREATEST_TEMPERATURE:
            object.__setattr__(self, "temperature", GREATEST_TEMPERATURE)
        whole("top_k", self.top_k, -1)
        if self.top_k > MOST_TOP_K:
            object.__setattr__(self, "top_k", MOST_TOP_K)
        share("top_p", self.top_p)
        share("typical_p", self.typical_p)
        between("min_p", self.min_p, 0, 1, "; 0 is off")
        penalty = self.repetition_penalty
        number("repetition_penalty", penalty)
        if penalty <= 0:
            raise InvalidRequestError(
                f"repetition_penalty must be more than 0, not {penalty!r}; 1 is off"
            )
        between("repetition_penalty", penalty, 1e-30, 1e30)  # float32 holds a logit times it
        between("presence_penalty", self.presence_penalty, -2, 2)
        between("frequency_penalty", self.frequency_penalty, -2, 2)

    def _check_tokens(self) -> None:
        for text in self.stop_strings:
            if not isinstance(text, str) or not text:
                raise InvalidRequestError(f"stop must hold non-empty strings, not {text!r}")
        for token in self.stop_ids:
            whole("stop_token_ids", token, 0)
        if self.allowed_token_ids is not None:
            allowed = items("allowed_token_ids", self.allowed_token_ids)
            object.__setattr__(self, "allowed_token_ids", allowed)
            for token in allowed:
                whole("allowed_token_ids", token, 0)
            if not allowed:
                raise InvalidRequestError(
                    "allowed_token_ids is empty, so no token could be drawn; None allows all"
                )
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, Mapping):
                raise InvalidRequestError(
                    f"logit_bias must map token ids to numbers, not {self.logit_bias!r}"
                )
            bias = {plain(token): plain(value) for token, value in self.logit_bias.items()}
            object.__setattr__(self, "logit_bias", bias)
            for token, value in self.logit_bias.items():
                whole("a token id of logit_bias", token, 0)
                between(f"logit_bias[{token}]", value, -1e30, 1e30)  # float32 holds it
        words: list[str | tuple[int, ...]] = []
        for word in self.bad_words or ():
            ids = word if isinstance(word, str) else items("a bad word", word)
            if not ids:
                raise InvalidRequestError(
                    f"bad_words must hold non-empty texts or lists of token ids, not {word!r}"
                )
            if not isinstance(ids, str):
                for token in ids:
                    whole("a token id of bad_words", token, 0)
            words.append(ids)
        object.__setattr__(self, "bad_words", tuple(words))

    def _check_best_of(self, best_of: int) -> None:
        whole("best_of", best_of, 1)
        at_most("best_of", best_of, MOST_SAMPLES)
        if best_of < self.n:
            raise InvalidRequestError(
                f"best_of={best_of} is less than n={self.n}, the number to be returned"
            )
        if self.greedy and best_of > 1:
            raise InvalidRequestError(
                f"best_of={best_of} would draw the same completion again and again at "
                "temperature 0; raise the temperature"
            )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return self.stop  # type: ignore[return-value]  # a tuple since __post_init__

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.stop_token_ids  # type: ignore[return-value]  # a tuple since __post_init__

    @property
    def processors(self) -> tuple[LogitsProcessor, ...]:
        return self.logits_processors  # type: ignore[return-value]  # a tuple since __post_init__

    @cached_property
    def constraint(self) -> Constraint | None:
        """The form that the answer must have, as plain text; None for any."""
        return make_constraint(self.json_schema, self.regex, self.grammar, self.choice)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def num_drawn(self) -> int:
        """Completions to draw; those beyond `n` are dropped at the end."""
        return self.n if self.best_of is None else self.best_of

    @property
    def ranked(self) -> bool:
        """Whether completions are drawn beyond `n`, so that their likelihood counts."""
        return self.num_drawn > self.n

    @property
    def penalised(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )
