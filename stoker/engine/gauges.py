"""What engines are doing right now, in numbers: totals, queues, cache, and the work foreseen.

Read between steps by whoever watches the engine; knows neither jobs nor screens, and no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the engine has tensors, which are not looked into here
    from stoker.engine.engine import Engine


@dataclass(frozen=True)
class Gauges:
    """The state of an engine between two steps, or of several together.

    Attributes:
        engines: how many there are.
        steps, prefill_tokens, decode_tokens: totals since the engine was made. A token is a
            decode if it is the only one its sequence has to compute in the step.
        saved_tokens: tokens found in the prefix cache and not computed, in all.
        preemptions: sequences that had to give their blocks back, in all.
        running, waiting: sequences that hold blocks, and those that wait for them.
        held_blocks, num_blocks: cache blocks with an owner, and all there are, of the cache group
            that has the fewest left; 0 if layers keep states alone.
        expected_left: output tokens that the running sequences are expected to add.
        longest_left: the most that one of them is expected to add.
    """

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    saved_tokens: int = 0
    preemptions: int = 0
    running: int = 0
    waiting: int = 0
    held_blocks: int = 0
    num_blocks: int = 0
    expected_left: int = 0
    longest_left: int = 0
    engines: int = 1

    @property
    def cache_use(self) -> float:
        """The share of the cache's blocks that have an owner."""
        return self.held_blocks / self.num_blocks if self.num_blocks else 0.0


def summed(several: Seq[Gauges]) -> Gauges:
    """The gauges of several engines as one: the longest sequence of all, and sums of the rest."""
    names = [field.name for field in dataclasses.fields(Gauges)]
    sums = {name: sum(getattr(one, name) for one in several) for name in names}
    sums["longest_left"] = max((one.longest_left for one in several), default=0)
    return Gauges(**sums)


def ended(gauges: Gauges) -> Gauges:
    """What is left of the gauges of an engine that is gone: its totals."""
    return dataclasses.replace(
        gauges,
        **dict.fromkeys(("running", "waiting", "held_blocks", "num_blocks"), 0),
        **dict.fromkeys(("expected_left", "longest_left", "engines"), 0),
    )


def read_gauges(engine: Engine) -> Gauges:
    """The gauges of `engine`, to be read between steps."""
    scheduler, stats = engine.scheduler, engine.stats
    fullest = scheduler.pool.fullest
    generating = [seq for seq in scheduler.running if seq.request.pooling is None]
    left = np.zeros(1, np.int64)
    if generating:
        generated = np.asarray([seq.generated for seq in generating], dtype=np.int64)
        limits = np.asarray(
            [seq.length_limit - seq.prompt_len for seq in generating], dtype=np.int64
        )
        left = np.maximum(scheduler.lengths.expected(generated, limits) - generated, 0)
    return Gauges(
        steps=stats.steps,
        prefill_tokens=stats.computed_tokens - stats.decode_tokens,
        decode_tokens=stats.decode_tokens,
        saved_tokens=scheduler.tables.num_hit_tokens,
        preemptions=scheduler.num_preemptions,
        running=len(scheduler.running),
        waiting=scheduler.num_waiting,
        held_blocks=fullest.held if fullest else 0,
        num_blocks=fullest.num_blocks if fullest else 0,
        expected_left=int(left.sum()),
        longest_left=int(left.max()),
    )
