"""The state of one running completion: the only mutable object of the engine's path.

Owned by the scheduler. Everything else follows from its counters:

    tokens   [ prompt ............ | generated ..... ]
             [ computed ......... ][ remaining ...... ]
    blocks   [  0  |  1  |  2  |  3  ]   hold the keys and values of `computed`
             [ registered ]              blocks known to the prefix index

A decode has one token remaining, a prefill (or a recomputation) more. The newest token may be
the placeholder `LAST_TOKEN`: it is still being drawn, and only the device has it, by slot.
"""

from __future__ import annotations

from enum import Enum

from stoker.engine.blocks.prefix_index import ROOT
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
        "blocks",
        "computed",
        "cursor",
        "finish_reason",
        "index",
        "length_limit",
        "num_cached_tokens",
        "pending_samples",
        "planned",
        "prompt_len",
        "registered",
        "request",
        "scored",
        "serial",
        "shared_blocks",
        "slot",
        "status",
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
        self.status = Status.WAITING
        self.finish_reason: str | None = None
        self.num_cached_tokens = 0  # prompt tokens that the prefix index spared it
        # tokens whose logits have scored the prompt; all but its last, if it wants no scores
        self.scored = self.prompt_len - 1 if request.params.prompt_logprobs is None else 0
        self.planned = 0  # number of the last step it was part of
        self.slot = NO_SLOT  # its place on the device while it runs
        self.drop_cache()

    def drop_cache(self) -> None:
        """Forget the cache's part; the tokens stay, to be computed again."""
        self.computed = 0
        self.blocks: tuple[int, ...] = ()
        self.shared_blocks = 0  # leading blocks taken from the index
        self.registered = 0
        self.cursor: int | None = ROOT  # index entry of the last registered block; None: gave up

    def draw(self, token: int) -> None:
        """Take in the next token, in place of its placeholder if there is one."""
        if self.tokens[-1] == LAST_TOKEN:
            self.tokens[-1] = token
        else:
            self.tokens.append(token)

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
        twin.blocks = self.blocks
        twin.shared_blocks = len(self.blocks)
        twin.registered, twin.cursor = self.registered, self.cursor
        twin.num_cached_tokens = self.prompt_len
        twin.scored = self.scored
        return twin
