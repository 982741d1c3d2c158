"""The state of one running completion: the only mutable object of the engine's path.

Owned by the scheduler. Everything else follows from its counters:

    tokens   [ prompt ............ | generated ..... ]
             [ computed ......... ][ remaining ...... ]
    tables   [  0  |  1  |  2  |  3  ]   blocks with the keys and values of `computed`, by group
             [ num_indexed ]             blocks whose content the prefix index knows
             [ -1  | -1  |  2  |  3  ]   a group with a window has freed `num_freed` of them

A vector in the prompt is a token whose id names its content (request/vectors.py), and nothing here
tells it from others. Two tokens, vectors of ids a, b, a, and a token; blocks of 2 tokens:

    tokens   [ 11  12 | a  b | a  13 ]   in the index: (11, 12) --> (a, b) --> (a, 13)

In a step that verifies drafts (drafts.py), these are the last tokens; they are computed, and not
registered.

A decode has one token remaining, a prefill (or a recomputation) more. The newest token may be
the placeholder `LAST_TOKEN`: it is still being drawn, and only the device has it, by slot.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from enum import Enum

from stoker.engine.blocks.cache_pool import Tables
from stoker.engine.blocks.prefix_index import Parent, Root
from stoker.engine.request.params import RepetitionDetectionParams
from stoker.engine.request.pooling import NO_STATES
from stoker.engine.request.request import Request
from stoker.engine.scheduling.slot_pool import NO_SLOT
from stoker.engine.scheduling.step import LAST_TOKEN, NOT_SCORED


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """One completion of a request (`index` of `n`), with its place in the cache."""

    __slots__ = (
        "computed",
        "draftable",
        "finish_reason",
        "index",
        "index_parent",
        "length_limit",
        "num_cached_tokens",
        "num_drafts",
        "num_freed",
        "num_indexed",
        "pending_samples",
        "planned",
        "prompt_len",
        "request",
        "scored",
        "serial",
        "shared_blocks",
        "slot",
        "status",
        "stop_ids",
        "tables",
        "tokens",
    )

    def __init__(self, request: Request, serial: int, length_limit: int, index: int = 0) -> None:
        self.request = request
        self.serial = serial
        self.index = index
        self.tokens: list[int] = list(request.prompt_token_ids)
        self.prompt_len = len(self.tokens)
        self.length_limit = length_limit
        # completions to draw from the prompt's last position
        self.pending_samples = request.params.num_drawn if request.pooling is None else 0
        self.stop_ids = request.params.stop_ids
        self.status = Status.WAITING
        self.finish_reason: str | None = None
        self.num_cached_tokens = 0  # prompt tokens that the prefix index spared it
        # tokens whose logits have scored the prompt; all but its last, if it wants no scores
        self.scored = self.prompt_len - 1 if request.params.prompt_logprobs is None else 0
        self.planned = 0  # number of the last step it was part of
        self.slot = NO_SLOT  # its place on the device while it runs
        self.num_drafts = 0  # tokens at the end that the step under way verifies (drafts.py)
        self.draftable = request.pooling is None
        self.drop_cache()

    def drop_cache(self) -> None:
        """Forget the cache's part; the tokens stay, to be computed again."""
        self.computed = 0
        self.tables: Tables = ()  # none until it gets blocks
        self.num_freed: tuple[int, ...] = ()  # leading entries of each table that are unused
        self.shared_blocks = 0  # leading blocks taken from the index
        self.num_indexed = 0
        # index node of the last indexed block; None: it is gone, so no more are indexed
        self.index_parent: Parent | None = Root(self.request.prefix_root)

    def draw(self, token: int) -> None:
        """Take in the next token, in place of its placeholder if there is one."""
        if self.tokens[-1] == LAST_TOKEN:
            self.tokens[-1] = token
        else:
            self.tokens.append(token)

    def drop_drafts(self) -> list[int]:
        """Take the drafts off the end of the tokens."""
        start = len(self.tokens) - self.num_drafts
        drafts, self.num_drafts = self.tokens[start:], 0
        del self.tokens[start:]
        return drafts

    @property
    def num_blocks(self) -> int:
        """Entries of its tables, of which each group has as many."""
        return len(self.tables[0]) if self.tables else 0

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def may_reuse(self) -> bool:
        """Whether cached content, which has neither states nor logits, may replace its tokens."""
        pooling = self.request.pooling
        return self.scored >= self.prompt_len - 1 and (pooling is None or pooling.reuses)

    def states(self, start: int, end: int) -> tuple[int, int]:
        """The slice of tokens start to end - 1 whose final states are pooled."""
        pooling = self.request.pooling
        return NO_STATES if pooling is None else pooling.states(start, end, self.prompt_len)

    def score(self, start: int, end: int) -> tuple[int, int]:
        """The slice of tokens start to end - 1 whose logits are still to score the prompt.

        They count as scored from now on.
        """
        first, last = max(start, self.scored), min(end, self.prompt_len - 1)
        if first >= last:
            return NOT_SCORED
        self.scored = last
        return first - start, last - start

    def fork(self, serial: int, index: int) -> Sequence:
        """A sibling over the same prompt and blocks; the caller counts the references."""
        twin = Sequence(self.request, serial, self.length_limit, index)
        twin.pending_samples = 1
        twin.computed = self.computed
        twin.tables, twin.num_freed = self.tables, self.num_freed
        twin.shared_blocks = self.num_blocks
        twin.num_indexed, twin.index_parent = self.num_indexed, self.index_parent
        twin.num_cached_tokens = self.prompt_len
        twin.scored, twin.draftable = self.scored, self.draftable
        return twin


def finish_reason(seq: Sequence, eos_ids: frozenset[int]) -> str | None:
    """The reason why `seq` ends with its last token; None if it goes on."""
    if seq.request.pooling:
        return "pooled"
    params, token = seq.request.params, seq.tokens[-1]
    if token in seq.stop_ids or (not params.ignore_eos and token in eos_ids):
        return "stop"
    detect = params.repetition_detection
    if (
        detect is not None
        and seq.generated >= params.min_tokens
        and is_looping(seq.tokens, seq.prompt_len, detect)
    ):
        return "repetition"
    return "length" if len(seq.tokens) >= seq.length_limit else None


def is_looping(tokens: Seq[int], start: int, params: RepetitionDetectionParams) -> bool:
    """Whether `tokens[start:]` ends with one pattern `min_count` times in a row.

    A sequence repeats with period p over its last p * count tokens exactly if these equal
    themselves shifted by p. The last token alone rules out most periods.
    """
    last, length = len(tokens) - 1, len(tokens) - start
    for size in range(params.min_pattern_size, params.max_pattern_size + 1):
        span = size * params.min_count
        if span > length:
            return False
        if tokens[last] != tokens[last - size]:
            continue
        if tokens[len(tokens) - span + size :] == tokens[len(tokens) - span : -size]:
            return True
    return False
