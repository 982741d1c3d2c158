"""Measures what an engine takes of a GPU's memory.

The largest step is run once before there is a cache, and what it took at its peak is kept for
steps like it. Knows torch's counters; the arithmetic is in budget.py.
"""

from __future__ import annotations

import torch

from stoker.engine.execution.runner import ModelRunner
from stoker.engine.request.request import DrawSettings
from stoker.engine.sampling.sampler import SamplingBatch
from stoker.engine.scheduling.step import Step, StepItem
from stoker.ops.rounding import ceil_div


class DeviceMemory:
    """Counts from the moment it is made: what is held by then belongs to others."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total = torch.cuda.mem_get_info(device)[1]
        self._before = torch.cuda.memory_allocated(device)

    def held(self) -> int:
        """Bytes of tensors made since."""
        return torch.cuda.memory_allocated(self.device) - self._before

    def others(self) -> int:
        """Bytes that are neither free nor in torch's hands, and those that torch had before."""
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free - torch.cuda.memory_reserved(self.device) + self._before

    def activations(
        self, runner: ModelRunner, max_batch_tokens: int, max_running: int, context: int
    ) -> int:
        """Bytes that the largest step takes at its peak beside what is held.

        `runner` has a cache with room for a sequence as long as the step, or as `context`.
        """
        size = runner.cache.block_size
        groups = len(runner.slots.groups)
        step, draws = largest_step(max_batch_tokens, max_running, context, size, groups)
        runner.launch(step, draws).wait()  # compiles and loads what would count once only
        torch.cuda.reset_peak_memory_stats(self.device)
        base = torch.cuda.memory_allocated(self.device)
        runner.launch(step, draws).wait()
        return torch.cuda.max_memory_allocated(self.device) - base


def largest_step(
    max_batch_tokens: int, max_running: int, context: int, block_size: int, groups: int = 1
) -> tuple[Step, SamplingBatch]:
    """A step of as many tokens, sequences and draws as there can be, with what it draws.

    The first sequences are as long as they may be, the others have a token; all lie in the same
    blocks, of each of so many groups. Top-k and top-p are asked for, which takes the most room.
    """
    rows = min(max_running, max_batch_tokens)
    spare = max_batch_tokens - rows
    items = []
    for row in range(rows):
        more = min(spare, context - 1)
        spare -= more
        table = tuple(range(ceil_div(1 + more, block_size)))
        items.append(StepItem(row, row, 0, (0,) * (1 + more), (table,) * groups, (0,)))
    settings = DrawSettings(1.0, top_p=0.9, min_p=0.0, typical_p=1.0, top_k=50, seed=0)
    return Step(0, tuple(items)), SamplingBatch([settings] * rows)
