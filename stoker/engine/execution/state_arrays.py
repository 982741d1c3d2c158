"""What layers with states want to know of a step, and what stands for tables without pages.

Made for models with such layers alone. Called where a step is flattened, padded and sent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stoker.ops.step_tensors import NO_PAGES, FlatStep, PageTables

Ints = NDArray[np.int64]


class StateArrays(NamedTuple):
    """What layers with states want to know of S sequences; see `StatePlan`."""

    starts: Ints  # (S + 1,)
    fresh: NDArray[np.bool_]  # (S,)
    most: int


def state_arrays(first: Ints, ends: Ints, counts: Ints) -> StateArrays:
    """Of sequences whose tokens begin at the positions `first` and end at `ends` of the step."""
    return StateArrays(np.append(0, ends), first == 0, int(counts.max()))


def pad_states(states: StateArrays, counts: Ints, tokens: int) -> StateArrays:
    """`states` with dummies of so many tokens, each at its beginning.

    How many tokens a sequence has at most is the same for all steps of as many tokens.
    """
    sequences = len(states.fresh) + len(counts)
    return StateArrays(
        np.concatenate((states.starts, states.starts[-1] + np.cumsum(counts))),
        np.concatenate((states.fresh, np.ones(len(counts), np.bool_))),
        1 if tokens == sequences else tokens,
    )


def no_tables(step: FlatStep) -> PageTables:
    """Stands for the tables of a cache without pages; its cells mean nothing."""
    return PageTables(step.slots.new_zeros(len(step.slots), 1), NO_PAGES, idle_block=0)
