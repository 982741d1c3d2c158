"""Running out of memory in a step: smaller steps from now on, and the same work again.

Knows the scheduler and steps. What a failed step left of a prompt's scores is dropped when the
prompt is scored again (`ActiveRequest.score_range`). Called by the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq

import torch

from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.step import Step
from stoker.errors import StokerError

log = logging.getLogger(__name__)

HOST = "can't allocate memory"  # in the RuntimeError of torch's allocator for the CPU


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether a device's memory, or the machine's, was not enough."""
    return isinstance(problem, MemoryError | torch.OutOfMemoryError) or (
        isinstance(problem, RuntimeError) and HOST in str(problem)
    )


def requeue_and_shrink(scheduler: Scheduler, steps: Seq[Step], first: bool) -> None:
    """Undo the first of `steps`, which did not fit, and lower the limits to half of what it had.

    Everything that ran waits again, in the same order and before all else, and is computed anew
    from its tokens; the prefix cache is emptied, since blocks of the step were never filled.

    Args:
        scheduler: planned `steps` and has committed none of them.
        steps: what failed, and the step that was planned ahead of its tokens, if one was.
        first: note it in the log.

    Raises:
        StokerError: the step has one token, so none can be smaller.
    """
    step = steps[0]
    if step.num_tokens <= 1:
        raise StokerError(
            "out of memory in a step of one token, the smallest there is; give the cache less "
            "memory (cache_memory), use a narrower dtype or a smaller model, or free memory"
        )
    scheduler.drop_placeholders()
    for item in (item for one in reversed(steps) for item in one.items if item.scored[1]):
        scheduler[item.sequence].scored = item.start + item.scored[0]
    for seq in scheduler.running:
        if not seq.generated:
            seq.num_cached_tokens = 0  # its prompt begins anew
    while scheduler.running:
        scheduler.put_back(scheduler.running.pop())
    scheduler.pool.clear_cache()
    if scheduler.states is not None:
        scheduler.states.clear()
    scheduler.max_batch_tokens = min(scheduler.max_batch_tokens, step.num_tokens) // 2
    halved = max(1, scheduler.max_running // 2)
    scheduler.max_running = min(halved, scheduler.max_batch_tokens)
    if first:
        log.warning(
            "out of memory in a step of %d tokens of %d sequences; going on with at most %d tokens "
            "and %d sequences at a time, and less if that is too much (results stay the same)",
            step.num_tokens,
            len(step.items),
            scheduler.max_batch_tokens,
            scheduler.max_running,
        )


def free_unused() -> None:
    """Give back what torch keeps of the device's memory for later."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
