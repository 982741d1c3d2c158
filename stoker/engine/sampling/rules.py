"""A request's sampling parameters, checked against the model and made ready for the steps.

Made once per request, when it is added. Knows ids and the tokenizer, neither tensors nor rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stoker.engine.request.constraint import Constraint
from stoker.engine.request.params import SamplingParams
from stoker.engine.sampling.grammar import Grammar
from stoker.errors import InvalidRequestError

Ints = NDArray[np.int64]
NONE: Ints = np.zeros(0, np.int64)
CHANGES = frozenset(("processors", "bias", "bars", "grammar", "penalties"))
_READ_TOKENS = frozenset(("processors", "grammar", "penalties"))  # and some of "bars"


class PlainEncoder(Protocol):
    """The part of a tokenizer that turns bad words into tokens."""

    def encode_plain(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Rules:
    """What holds for every draw of one request.

    Attributes:
        params: the parameters these come from.
        bias_ids, bias_values: logit bias, (B,) int64 and (B,) float32.
        allowed: sorted ids that may be drawn; None for all.
        banned: single tokens that are bad words.
        endings: longer bad words, as (tokens before the last, last), by the token before the last.
        stops: ids that would end the completion, barred before `min_tokens`.
        grammar: what the answer must follow.
    """

    params: SamplingParams
    bias_ids: Ints = field(default_factory=NONE.copy)
    bias_values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    allowed: Ints | None = None
    banned: Ints = field(default_factory=NONE.copy)
    endings: dict[int, list[tuple[list[int], int]]] = field(default_factory=dict)
    stops: Ints = field(default_factory=NONE.copy)
    grammar: Grammar | None = None

    @functools.cached_property
    def features(self) -> frozenset[str]:
        """What draws need beside their settings (`DrawSettings`).

        "processors", "bias", "bars", "grammar" and "penalties" change logits before these
        (`CHANGES`), "logprobs" looks.
        """
        params = self.params
        kinds = {
            "processors": params.processors,
            "bias": len(self.bias_ids),
            "bars": self.allowed is not None or self.bars,
            "grammar": self.grammar is not None,
            "penalties": params.penalised,
            "logprobs": params.logprobs is not None or params.ranked,
        }
        return frozenset(kind for kind, used in kinds.items() if used)

    @functools.cached_property
    def changes_logits(self) -> bool:
        """Whether logits are touched before temperature and filters."""
        return not CHANGES.isdisjoint(self.features)

    @functools.cached_property
    def reads_tokens(self) -> bool:
        """Whether a draw depends on the tokens before it, beyond the logits."""
        return bool(not _READ_TOKENS.isdisjoint(self.features) or self.endings or len(self.stops))

    @functools.cached_property
    def bars(self) -> bool:
        """Whether there are tokens that `barred` may give."""
        return bool(len(self.banned) or self.endings or len(self.stops))

    def barred(self, output: Seq[int]) -> Ints:
        """The ids that may not follow `output`, beside those not in `allowed`."""
        found = [self.banned]
        if output and self.endings:
            ends = [
                last
                for before, last in self.endings.get(output[-1], ())
                if len(before) <= len(output) and output[-len(before) :] == before
            ]
            found.append(np.array(ends, np.int64))
        if len(output) < self.params.min_tokens:
            found.append(self.stops)
        return np.concatenate(found) if len(found) > 1 else found[0]


def make_rules(
    params: SamplingParams,
    vocab: int,
    eos_ids: Iterable[int],
    tokenizer: PlainEncoder | None,
    compile_constraint: Callable[[Constraint], Grammar] | None = None,
) -> Rules | None:
    """The rules of a request; None if temperature and the filters are all there is to it.

    Raises:
        InvalidRequestError: a token id is beyond the vocabulary, a bad word has no tokens, or a
            constraint does not compile.
    """
    for name, ids in (
        ("stop_token_ids", params.stop_ids if params.min_tokens else ()),
        ("allowed_token_ids", params.allowed_token_ids or ()),
        ("logit_bias", params.logit_bias or ()),
    ):
        _in_vocabulary(name, ids, vocab)
    for name in ("logprobs", "prompt_logprobs"):
        if (getattr(params, name) or 0) > vocab:
            raise InvalidRequestError(
                f"{name}={getattr(params, name)} is more than the {vocab} tokens of the vocabulary"
            )
    words = _bad_words(params, vocab, tokenizer)
    if not _special(params, bool(words)):
        return None
    endings: dict[int, list[tuple[list[int], int]]] = {}
    for *before, last in (word for word in words if len(word) > 1):
        endings.setdefault(before[-1], []).append((before, last))
    bias = params.logit_bias or {}
    allowed = params.allowed_token_ids
    eos = () if params.ignore_eos else (token for token in eos_ids if token < vocab)
    ends = {*params.stop_ids, *eos}
    return Rules(
        params=params,
        bias_ids=np.array(list(bias), np.int64),
        bias_values=np.array(list(bias.values()), np.float32),
        allowed=None if allowed is None else np.unique(np.array(allowed, np.int64)),
        banned=np.array([word[0] for word in words if len(word) == 1], np.int64),
        endings=endings,
        stops=np.array(sorted(ends) if params.min_tokens else [], np.int64),
        grammar=_grammar(params, compile_constraint),
    )


def _grammar(
    params: SamplingParams, compile_constraint: Callable[[Constraint], Grammar] | None
) -> Grammar | None:
    if params.constraint is None:
        return None
    if compile_constraint is None:
        raise InvalidRequestError(f"{params.constraint.kind} needs an engine with a tokenizer")
    return compile_constraint(params.constraint)


def _special(params: SamplingParams, words: bool) -> bool:
    return bool(
        words
        or params.penalised
        or params.logit_bias
        or params.allowed_token_ids is not None
        or params.min_tokens
        or params.logprobs is not None
        or params.ranked
        or params.processors
        or params.constraint
    )


def _in_vocabulary(name: str, ids: Iterable[int], vocab: int) -> None:
    for token in ids:
        if not 0 <= token < vocab:
            raise InvalidRequestError(
                f"{name} holds {token}, which is out of range; the model has ids 0 to {vocab - 1}"
            )


def _bad_words(
    params: SamplingParams, vocab: int, tokenizer: PlainEncoder | None
) -> list[tuple[int, ...]]:
    """All token sequences to avoid; a text may give two, at the start and after a blank."""
    found: dict[tuple[int, ...], None] = {}
    for word in params.bad_words or ():
        if not isinstance(word, str):
            found[tuple(word)] = None
            continue
        if tokenizer is None:
            raise InvalidRequestError(
                f"the bad word {word!r} needs a tokenizer, and the engine has none; "
                "give it as a list of token ids"
            )
        try:
            plain = tuple(tokenizer.encode_plain(word))
        except InvalidRequestError as problem:
            raise InvalidRequestError(f"the bad word {word!r}: {problem}") from None
        if not plain:
            raise InvalidRequestError(f"the bad word {word!r} has no tokens with this tokenizer")
        found[plain] = None
        blank = tuple(tokenizer.encode_plain(" "))
        spaced = tuple(tokenizer.encode_plain(" " + word))
        # where the blank stays a token of its own, the plain form is met anyway
        if not blank or spaced[: len(blank)] != blank:
            found[spaced] = None
    for ids in found:
        _in_vocabulary("bad_words", ids, vocab)
    return list(found)
