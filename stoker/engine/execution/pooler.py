"""Pools hidden states into one vector per request, over as many steps as a prompt takes.

Sums run in float64 and strictly in the order of positions, so a mean has the same bits
however its prompt was cut into chunks (on a CPU; elsewhere up to the order of addition).
Knows steps and states, no queue and no family. Called by the runner.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.engine.request.pooling import PoolingParams
from stoker.engine.scheduling.step import Step

Head = Callable[[Tensor], Tensor]


@dataclass
class PoolState:
    """What has been gathered of one pooled request; it lives and dies with the request.

    Attributes:
        params: how to pool.
        length: tokens of the prompt.
        total: (D,) float64, the sum of the states so far; None for a single state.
        count: states in it.
        vector: the result, D numbers or one per label; None until all states are there.
    """

    params: PoolingParams
    length: int
    total: Tensor | None = None
    count: int = 0
    vector: list[float] | None = None


def gather(step: Step, states: Tensor, pools: Seq[PoolState], head: Head) -> None:
    """Take the states of one step in, and finish the vectors that are complete.

    Args:
        step: says which part of each item's tokens the states belong to.
        states: (P, D) in the model's dtype, the wanted states of all items, in their order.
        pools: one for each item of `step` that wants states; changed in place.
        head: the classification head, (P, D) -> (P, labels), in the model's dtype.
    """
    items = [item for item in step.items if item.states[1]]
    parts = torch.split(states, [item.states[1] - item.states[0] for item in items])
    done: list[tuple[PoolState, Tensor]] = []
    for item, part, pool in zip(items, parts, pools, strict=True):
        if pool.params.pooling == "mean":
            if item.start == 0:  # also when it starts again after preemption
                pool.total, pool.count = None, 0
            assert item.start == pool.count, "mean pooling needs every state, in order"
            pool.total = _add(pool.total, part)
            pool.count += len(part)
            if pool.count == pool.length:
                done.append((pool, (pool.total / pool.length).float()))
                pool.total = None
        else:
            done.append((pool, part[0].float()))
    _finish([one for one in done if one[0].params.task == "embed"], None, states.dtype)
    _finish([one for one in done if one[0].params.task == "classify"], head, states.dtype)


def _add(total: Tensor | None, part: Tensor) -> Tensor:
    """total (D,) plus the rows of part (P, D), one after the other, in float64."""
    if total is None:
        total = torch.zeros(part.shape[1], dtype=torch.float64, device=part.device)
    rows = torch.zeros(len(part), dtype=torch.int64, device=part.device)
    return total[None].index_add(0, rows, part.double())[0]


def _finish(done: list[tuple[PoolState, Tensor]], head: Head | None, dtype: torch.dtype) -> None:
    """Set the vectors of `done`, through the head if there is one; one copy to the host."""
    if not done:
        return
    vectors = torch.stack([state for _, state in done])
    if head is not None:
        vectors = head(vectors.to(dtype)).float()
    rows = [
        F.normalize(row, dim=0) if head is None and pool.params.normalize else row
        for (pool, _), row in zip(done, vectors, strict=True)
    ]
    for (pool, _), vector in zip(done, torch.stack(rows).tolist(), strict=True):
        pool.vector = vector
