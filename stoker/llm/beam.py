"""Beam search: the most likely continuations, found breadth first with a few kept at each length.

Each step asks the engine for one token of every live beam, with its likeliest successors; beams of
one prompt share their blocks through the prefix cache. With a width of 2:

    prompt   live        candidates (log-probability)       live        done
    a b      a b         c -0.1   d -2.5   </s> -3.0        a b c       a b </s>
                                                            a b d
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stoker.engine.request.checks import known_names, number, whole
from stoker.engine.request.constraint import KINDS
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Logprobs, RequestOutput
from stoker.engine.text.detokenizer import TokenTexts
from stoker.engine.text.tokenizer import Encoded, TextCodec
from stoker.errors import InvalidRequestError

if TYPE_CHECKING:  # it has tensors, which are not looked into here
    from stoker.llm.session import Session

Extend = Callable[[list[list[int]], SamplingParams], list[RequestOutput]]


@dataclass(frozen=True)
class BeamSearchParams:
    """Parameters of a beam search, with the names and meanings known from vLLM.

    Args:
        beam_width: beams kept at each length, and sequences returned.
        max_tokens: most tokens to generate.
        ignore_eos: treat the model's end-of-sequence tokens like any other.
        temperature: 0 only; beam search compares the model's own probabilities and draws nothing.
        length_penalty: a sequence's score is its cumulative log-probability divided by its length
            to this power. The prompt counts in the length, a final end of sequence does not.

    Raises:
        InvalidRequestError: a value is out of range or a keyword is unknown.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0

    def __new__(cls, *args: Any, **kwargs: Any) -> BeamSearchParams:
        for kind in KINDS:
            if kind in kwargs:
                raise InvalidRequestError(
                    f"beam search can't follow a {kind}; use generate with SamplingParams instead"
                )
        known_names(cls, kwargs, "beam search parameter")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        whole("beam_width", self.beam_width, 1)
        whole("max_tokens", self.max_tokens, 1)
        number("length_penalty", self.length_penalty)
        number("temperature", self.temperature)
        if self.temperature != 0:
            raise InvalidRequestError(
                f"beam search has no temperature, and {self.temperature!r} was given: it draws "
                "nothing at random; leave it at 0, or use SamplingParams"
            )


@dataclass
class BeamSearchSequence:
    """One sequence found.

    Attributes:
        tokens: prompt and continuation, with the end of sequence if it was reached.
        logprobs: one entry per generated token: the candidates it was chosen from.
        cum_logprob: sum over the generated tokens.
        text: the tokens as text, special ones left out.
        finish_reason: "stop" or "length".
    """

    tokens: list[int]
    logprobs: list[Logprobs] = field(default_factory=list)
    cum_logprob: float = 0.0
    text: str = ""
    finish_reason: str | None = None


@dataclass
class BeamSearchOutput:
    """The best sequences of one prompt, best first."""

    sequences: list[BeamSearchSequence]


def search_all(
    session: Session, text: TextCodec, prompts: Seq[list[int]], params: BeamSearchParams
) -> list[BeamSearchOutput]:
    """Search each prompt, a few at a time, so that the blocks of their beams stay cached.

    Raises:
        InvalidRequestError: a prompt cannot be served; nothing has been run.
    """
    if not isinstance(params, BeamSearchParams):
        raise InvalidRequestError(f"params must be a BeamSearchParams, not {params!r}")
    with session.turn() as engine:
        engine.require("generate")
        one = SamplingParams(max_tokens=1)
        trial = [session.request(Encoded(None, ids), one) for ids in prompts]
        session.add_all(trial)  # refuses bad prompts
        for request in trial:
            session.cancel(request)

    def extend(beams: list[list[int]], step: SamplingParams) -> list[RequestOutput]:
        return session.run(lambda: [session.request(Encoded(None, ids), step) for ids in beams])

    scheduler = engine.scheduler
    at_once = max(1, scheduler.max_running // params.beam_width)
    found: list[BeamSearchOutput] = []
    for start in range(0, len(prompts), at_once):
        found += beam_search(
            prompts[start : start + at_once],
            params,
            extend,
            eos_ids=scheduler.eos_ids,
            vocab=engine.vocab,
            max_length=scheduler.max_length,
        )
    if text.available:
        for sequence in (one for output in found for one in output.sequences):
            sequence.text = text.decode(sequence.tokens)
            sequence.logprobs = [_after_others(one, text.token_texts) for one in sequence.logprobs]
    return found


def _after_others(entry: Logprobs, texts: TokenTexts) -> Logprobs:
    """The entry with the tokens as they are inside a text; a step's are those of its start."""
    return {
        token: dataclasses.replace(one, decoded_token=texts.text(token), bytes=texts.added(token))
        for token, one in entry.items()
    }


@dataclass
class _Search:
    """One prompt's beams."""

    live: list[BeamSearchSequence]
    done: list[BeamSearchSequence] = field(default_factory=list)


def beam_search(
    prompts: Seq[list[int]],
    params: BeamSearchParams,
    extend: Extend,
    *,
    eos_ids: frozenset[int],
    vocab: int,
    max_length: int,
) -> list[BeamSearchOutput]:
    """Search the continuations of each prompt. Texts are left empty.

    The candidates of a step are every live beam with each of its 2 * beam_width likeliest tokens.
    Those that end the sequence are finished; of the others the beam_width likeliest live on. So
    it goes on to `max_tokens`, or until no beam lives.

    Args:
        prompts: token ids.
        params: of all of them.
        extend: generates for each of a list of token ids, with the parameters it gets.
        eos_ids: tokens that end a sequence.
        vocab: size of the vocabulary.
        max_length: most tokens of a sequence, prompt included.
    """
    step = SamplingParams(
        temperature=0, max_tokens=1, ignore_eos=True, logprobs=min(2 * params.beam_width, vocab)
    )
    ends = frozenset() if params.ignore_eos else eos_ids
    searches = [_Search([BeamSearchSequence(list(prompt))]) for prompt in prompts]
    for generated in range(params.max_tokens):
        for search in searches:
            if search.live and generated and len(search.live[0].tokens) >= max_length:
                search.done += _closed(search.live, "length")
                search.live = []
        beams = [beam for search in searches for beam in search.live]
        if not beams:
            break
        outputs = iter(extend([beam.tokens for beam in beams], step))
        for search in searches:
            _advance(search, [next(outputs) for _ in search.live], params.beam_width, ends)
    found = []
    for search in searches:
        best = search.done + _closed(search.live, "length")
        best.sort(key=lambda one: -_score(one, params.length_penalty, ends))
        found.append(BeamSearchOutput(best[: params.beam_width]))
    return found


def _advance(
    search: _Search, outputs: list[RequestOutput], width: int, ends: frozenset[int]
) -> None:
    """Take one step's candidates in. `outputs` holds one for each live beam."""
    grown: list[tuple[float, BeamSearchSequence, int, Logprobs]] = []
    for beam, output in zip(search.live, outputs, strict=True):
        logprobs = output.outputs[0].logprobs
        assert logprobs is not None
        for token, one in logprobs[0].items():
            total = beam.cum_logprob + one.logprob
            if token in ends:
                search.done += _closed([_longer(beam, token, logprobs[0], total)], "stop")
            else:
                grown.append((total, beam, token, logprobs[0]))
    grown.sort(key=lambda one: -one[0])  # stable: ties by beam, then by rank
    search.live = [
        _longer(beam, token, entry, total) for total, beam, token, entry in grown[:width]
    ]


def _longer(
    beam: BeamSearchSequence, token: int, entry: Logprobs, total: float
) -> BeamSearchSequence:
    return BeamSearchSequence([*beam.tokens, token], [*beam.logprobs, entry], total)


def _closed(beams: list[BeamSearchSequence], reason: str) -> list[BeamSearchSequence]:
    for beam in beams:
        beam.finish_reason = reason
    return beams


def _score(one: BeamSearchSequence, length_penalty: float, ends: frozenset[int]) -> float:
    length = len(one.tokens) - (one.tokens[-1] in ends)
    score: float = one.cum_logprob / length**length_penalty
    return score
