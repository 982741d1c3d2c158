"""Compiles constraints against a tokenizer and follows an answer through them, token by token.

Each distinct constraint is compiled once; an answer gets a copy, which costs a microsecond.
Knows ids and the library llguidance, no tensors: the masks are applied in `grammar_masks.py`.
Made by the engine, called by the rules of a request and by the sampler.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from threading import Lock
from typing import TYPE_CHECKING, Any

from stoker.engine.request.constraint import (
    TOO_LONG,
    Constraint,
    begins_in_time,
    library,
    new_matcher,
    refusal,
)
from stoker.errors import InvalidRequestError, StokerError

if TYPE_CHECKING:
    from stoker.ops.token_bitmask import Bits

REMEMBERED = 256  # compiled constraints; rows of a job may each bring their own
TEXTS = 4 << 20  # characters of their texts, each of which takes some 20 bytes compiled
END = "<|stoker: end of a grammar|>"


class Grammar:
    """A compiled constraint.

    Args:
        compiler: what compiled it, with the tokenizer.
        matcher: llguidance's, at the start; never advanced itself.
    """

    def __init__(self, compiler: GrammarCompiler, matcher: Any) -> None:
        self.compiler = compiler
        self._matcher = matcher

    def start(self, stops: Iterable[int] = ()) -> GrammarState:
        """A new answer; `stops` end it beside the end of sequence."""
        return GrammarState(self, self.fresh_matcher(), stops)

    def fresh_matcher(self) -> Any:
        """llguidance's, at the start."""
        return self._matcher.deep_copy()

    def accepts(self, text: str) -> bool:
        """Whether the whole of `text` is an answer."""
        tokens = self.compiler.tokenizer.tokenize_str(text)
        matcher = self.fresh_matcher()
        done: bool = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
        return done


class Masks:
    """What may come next for several answers, filled in another thread.

    Attributes:
        bits: (n, width / 8), a bit for each token.
        filling: held by the thread until the bits are there.
        problem: why they could not be filled.
    """

    __slots__ = ("bits", "filling", "problem")

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self.filling = Lock()
        self.filling.acquire()
        self.problem: Exception | None = None

    def wait(self) -> None:
        """Return when the bits are there. Raises what went wrong."""
        with self.filling:
            if self.problem is not None:
                raise self.problem


class GrammarState:
    """Where an answer stands. It follows from the answer's tokens alone.

    Attributes:
        grammar: what it follows.
        matcher: llguidance's, after the tokens so far; not to be touched until the mask is there.
        stops: ids beside the end of sequence that may come where the answer is complete.
        mask: of the next token, as a row of some masks, where filling them has begun.
        followed: tokens so far.
        complete: whether they are a whole answer.
        ended: whether nothing may follow but the end; see also `error`.
        error: why the tokens so far could not be followed; None if they could.
    """

    def __init__(self, grammar: Grammar, matcher: Any, stops: Iterable[int]) -> None:
        self.grammar = grammar
        self.stops = sorted({*stops} - grammar.compiler.ends)
        self._ends = grammar.compiler.ends.union(self.stops)
        self._begin(matcher)

    def _begin(self, matcher: Any) -> None:
        self.matcher = matcher
        self.mask: tuple[Masks, int] | None = None
        self.followed = 0
        self.complete: bool = matcher.is_accepting()
        self.ended = False
        self.error: str | None = None

    def stopped_by_text(self, output: Seq[int]) -> bool:
        """Whether `output` ends in one of `stops` whose text may be a part of the answer."""
        stop = output[-1] if output else None
        special = self.grammar.compiler.tokenizer.is_special_token
        return stop in self.stops and not special(stop)

    def follow(self, token: int) -> None:
        """Take in the next token. The mask must be there."""
        matcher = self.matcher
        if not (self.complete and token in self._ends):
            if not matcher.consume_token(token):
                self.look()
            self.complete = self.error is None and matcher.is_accepting()
            self.ended = self.error is not None or matcher.is_stopped()
        self.mask = None
        self.followed += 1

    def restart(self, output: Seq[int]) -> None:
        """Be where `output` ends, whatever was followed before. The mask need not be there."""
        self._begin(self.grammar.fresh_matcher())
        for token in output:
            self.follow(token)

    def look(self) -> None:
        """Take note of why the matcher can't go on, such as a limit of the library, if so."""
        if self.matcher.is_error():
            reason = self.matcher.get_error().splitlines()[0]
            self.error = f"the constraint can't be followed: {reason}"


class GrammarCompiler:
    """Compiles constraints for one tokenizer and remembers them.

    Args:
        serialised: the tokenizer as the text of a tokenizer.json.
        vocab: size of the model's vocabulary, which may be more than the tokenizer's.
        eos_ids: the model's end-of-sequence ids.

    Raises:
        InvalidRequestError: the library does not know the kind of tokenizer.
        StokerError: llguidance is not installed.
    """

    def __init__(self, serialised: str, vocab: int, eos_ids: Iterable[int]) -> None:
        fields = json.loads(serialised)
        known = _size(fields)
        self.ends = frozenset(token for token in eos_ids if token < min(vocab, known))
        self.vocab = vocab
        own: list[int] = sorted(self.ends)
        self.phantom: int | None = None  # an id that stands for no token, which masks never allow
        if not own:  # the library wants an end of sequence
            self.phantom = known
            own, known = [known], known + 1
            fields["added_tokens"] = [*(fields.get("added_tokens") or []), _added(own[0])]
            serialised = json.dumps(fields)
        self.width = max(vocab, known)
        try:
            self.tokenizer = library().LLTokenizer(serialised, n_vocab=self.width, eos_token=own)
        except ValueError as problem:
            raise InvalidRequestError(
                f"answers can't be constrained with this model's tokenizer: {problem}"
            ) from problem
        self._made: OrderedDict[Constraint, Grammar] = OrderedDict()
        self._size = 0  # characters of their texts

    def compile(self, constraint: Constraint) -> Grammar:
        """The compiled constraint, made when first asked for.

        Raises:
            InvalidRequestError: it does not compile; the message says where.
        """
        found = self._made.get(constraint)
        if found is None:
            matcher = new_matcher(self.tokenizer, constraint)
            if matcher.is_error():
                raise InvalidRequestError(refusal(constraint.kind, matcher.get_error()))
            # others have been tried without a tokenizer
            if constraint.kind == "grammar" and not begins_in_time(matcher):
                raise InvalidRequestError(refusal("grammar", TOO_LONG))
            found = self._made[constraint] = Grammar(self, matcher)
            self._size += len(constraint.text)
            while len(self._made) > REMEMBERED or (self._size > TEXTS and len(self._made) > 1):
                oldest, _ = self._made.popitem(last=False)
                self._size -= len(oldest.text)
        self._made.move_to_end(constraint)
        return found


def make_compiler(tokenizer: Any, vocab: int, eos_ids: Iterable[int]) -> GrammarCompiler:
    """The compiler for an engine's tokenizer, which may be None.

    Raises:
        InvalidRequestError: the engine has no tokenizer, or one that can't be used.
        StokerError: llguidance is not installed.
    """
    if tokenizer is None:
        raise InvalidRequestError(
            "json_schema, regex, grammar and choice need a tokenizer, and the engine has none"
        )
    serialise = getattr(tokenizer, "serialised", None)
    if serialise is None:
        raise StokerError("this tokenizer can't be written as a tokenizer.json")
    return GrammarCompiler(serialise(), vocab, eos_ids)


def _size(fields: dict[str, Any]) -> int:
    """One more than the highest id of a tokenizer.json."""
    vocab = fields["model"]["vocab"]
    ids: list[int] = list(vocab.values() if isinstance(vocab, dict) else range(len(vocab)))
    ids += [one["id"] for one in fields.get("added_tokens") or []]
    return 1 + max(ids)


def _added(token: int) -> dict[str, Any]:
    """An entry of a tokenizer.json for a special token."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": END, **flags, "special": True}
