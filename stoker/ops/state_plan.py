"""The plan of all operations that keep a state of each sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class StatePlan(NamedTuple):
    """Which states a step reads and writes, in place of an attention plan; S sequences.

    Three sequences in the slots 4, 1 and 0, of which the last has just begun:

        tokens   11 12 13 | 21 | 31 32      starts  0 3 4 6
        slots     4       |  1 |  0         fresh   no, no, yes      most  3

    A layer takes each sequence's state from its place, or zero if it is fresh, whatever lies there
    (it may be NaN), goes through the sequence's tokens, and leaves the state after the last one in
    the same place. Steps that are padded have sequences that nobody reads: they are fresh, they
    share a place, and some have no tokens.

    Attributes:
        slots: (S,) int64, places among the layer's states.
        starts: (S + 1,) int64, the first token of each sequence, and their number.
        fresh: (S,) bool, whether a sequence's first token comes in this step.
        most: no sequence has more tokens in this step; 1 if all of them have one.
    """

    slots: Tensor
    starts: Tensor
    fresh: Tensor
    most: int


def begin(states: Tensor, plan: StatePlan) -> Tensor:
    """The states (S, ...) of the plan's sequences before the step."""
    found = states[plan.slots]
    return found.masked_fill(plan.fresh.view(-1, *[1] * (found.dim() - 1)), 0)


def finish(states: Tensor, after: Tensor, plan: StatePlan) -> None:
    """Put the states (S, ...) after the step in their places."""
    some = (plan.starts[1:] > plan.starts[:-1]).nonzero().squeeze(1)
    states[plan.slots[some]] = after[some]


def in_turn(plan: StatePlan) -> Iterator[tuple[Tensor, Tensor]]:
    """For the first token of each sequence, then the second: which sequences, and their rows."""
    lengths = plan.starts[1:] - plan.starts[:-1]
    for turn in range(plan.most):
        who = (lengths > turn).nonzero().squeeze(1)
        yield who, plan.starts[who] + turn
