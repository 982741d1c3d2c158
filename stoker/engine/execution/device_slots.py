"""What the device keeps from step to step, by slot: block tables, draw settings, last tokens.

A running sequence has a slot (engine/scheduling/slot_pool.py). With a step goes to the device what
is new in its block table, and once the settings of its draws; the tokens that the step draws stay
there, and the next step may ask for them before the host has seen them. Two slots, blocks of 4:

                              slot 0                       slot 1               slot 2
    step 1  items             5 tokens, blocks 8 3         2 tokens, block 6
            sent, table       [8 3 . .]                    [6 . . .]            (of dummies:
            sent, settings    temperature 1, seed 17       temperature 0        all idle)
            draws, kept       70                           55
    step 2  items             LAST_TOKEN at 5              LAST_TOKEN at 2
            sent              nothing                      nothing
            looked up         70, goes to cell 3 * 4 + 1   55, goes to cell 6 * 4 + 2
    step 3  slot 0 has been given to another sequence, of blocks 8 9 2
            sent, table       entries 1 and 2: 9 2         nothing
            sent, settings    temperature 0                nothing

One table per cache group, since a group has blocks of its own (engine/blocks/). Where a group has
freed a sequence's first blocks, behind its window, their entries hold the idle block, which nothing
reads there.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.blocks.block_pool import UNUSED
from stoker.engine.execution.slot_settings import SentDraws, SlotSettings, slot_settings_bytes
from stoker.ops.draw import DrawParams
from stoker.ops.rounding import ceil_div

Ints = NDArray[np.int64]


class SlotTables:
    """The block tables of one cache group, on the host and on the device.

    Attributes:
        idle_block: what entries hold that no position needs.
        entries: (slots + 1, width) int64 on the host; the last row is that of dummies.
        freed: (slots + 1,) int64 on the host, how many first entries of each row were freed.
        any_freed: whether there ever were any.
    """

    def __init__(
        self, num_slots: int, width: int, idle_block: int, device: torch.device, shared: bool
    ) -> None:
        self.idle_block = idle_block
        shape = num_slots + 1, width
        # zeros take memory when they are first written to
        self.entries: Ints = np.full(shape, idle_block) if idle_block else np.zeros(shape, np.int64)
        self.freed: Ints = np.zeros(num_slots + 1, np.int64)
        self.any_freed = False
        self._blocks: list[tuple[int, ...]] = [()] * num_slots
        self._shared = shared
        self._table = torch.from_numpy(self.entries)
        if not shared:
            self._table = self._table.clone().to(device)

    def update(self, slots: Seq[int], tables: Seq[tuple[int, ...]]) -> Ints:
        """Take note of the block tables of a step's sequences.

        Returns what is new, (2, C): places in the flattened `entries`, and what they hold now.
        """
        blocks_of, width = self._blocks, self.entries.shape[1]
        # a sequence keeps its tuple until it changes
        pairs = zip(slots, tables, strict=True)
        changed = [(slot, blocks) for slot, blocks in pairs if blocks_of[slot] is not blocks]
        places: list[int] = []
        new: list[int] = []
        for slot, blocks in changed:
            assert len(blocks) <= width, "a sequence is longer than the context"
            before, start = blocks_of[slot], slot * width
            freed = 0
            if (blocks and blocks[0] == UNUSED) or (before and before[0] == UNUSED):
                freed, gone = blocks.count(UNUSED), int(self.freed[slot])
                same = blocks[freed : len(before)] == before[freed:]
                idle = range(gone if same else 0, freed)
                places += range(start + idle.start, start + freed)
                new += [self.idle_block] * len(idle)
                self.freed[slot], self.any_freed = freed, True
            else:
                same = blocks[: len(before)] == before
            first = len(before) if same else freed
            end = max(len(before), len(blocks))
            places += range(start + first, start + end)
            new += blocks[first:]
            new += [self.idle_block] * (end - len(blocks))
            blocks_of[slot] = blocks
        changes = np.array((places, new), np.int64)
        self.entries.reshape(-1)[changes[0]] = changes[1]
        return changes

    def held_from(self, slots: Ints, block_size: int) -> Ints | None:
        """The first position of each of `slots` whose block is held; None if it is 0 for all."""
        return self.freed[slots] * block_size if self.any_freed else None

    def send(self, changes: Tensor) -> None:
        """Bring `changes`, what `update` returned, into the table on the device."""
        if not self._shared and changes.shape[1]:
            self._table.view(-1).index_copy_(0, changes[0], changes[1])

    def send_all(self) -> None:
        """Bring all entries to the device."""
        if not self._shared:
            self._table.copy_(torch.from_numpy(self.entries))

    def gather(self, slots: Tensor, host: Ints) -> Tensor:
        """The tables of a step's sequences on the device, (S, width) int64.

        Args:
            slots: (S,) int64 on the device.
            host: the same (S, width) on the host.
        """
        if self._shared:
            return torch.from_numpy(host)
        return self._table[:, : host.shape[1]].index_select(0, slots)


class DeviceSlots:
    """The block tables, draw settings and last tokens of all slots.

    Args:
        num_slots: most sequences that run at a time.
        context: most tokens of a sequence, or of a step's dummy (buckets.py).
        block_size: tokens of a block.
        idle_blocks: for each cache group of pages, the block that unused entries of its tables
            name.
        shared: whether host and device have the same memory; None: if `device` is a CPU.
        num_states: cache groups that keep states, which lie at the slots.

    Attributes:
        dummy: a slot that no sequence has; its tables hold idle blocks, its state is nobody's.
        width: entries of a block table.
        groups: the tables of each cache group of pages.
        settings: of the draws of each slot.
        last_tokens: (num_slots + 1,) int64 on the device, what each slot drew last.
    """

    def __init__(
        self,
        num_slots: int,
        context: int,
        block_size: int,
        device: torch.device,
        idle_blocks: Seq[int] = (0,),
        shared: bool | None = None,
        num_states: int = 0,
    ) -> None:
        self.block_size, self.device, self.num_states = block_size, device, num_states
        self.dummy = num_slots
        self.width = ceil_div(context, block_size)
        shared = device.type == "cpu" if shared is None else shared
        self.groups = [
            SlotTables(num_slots, self.width, idle_block, device, shared)
            for idle_block in idle_blocks
        ]
        self.settings = SlotSettings(num_slots, device, shared)
        self.last_tokens = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        self._drawing = self.last_tokens[:0]  # slots that draw in the last step
        self._draws: SentDraws | None = None  # of that step
        self._noted = self._missed = False

    def update(self, slots: Seq[int], tables: Seq[Seq[tuple[int, ...]]]) -> tuple[Ints, ...]:
        """Take note of a step's block tables, for each group those of its sequences.

        Returns what the device lacks of them, for each group (2, C); see `SlotTables.update`.
        """
        self._missed = self._missed or self._noted  # a step failed before it came to the device
        self._noted = True
        return tuple(
            group.update(slots, of_group)
            for group, of_group in zip(self.groups, tables, strict=True)
        )

    def receive(self, changes: Seq[Tensor], drawing: Tensor, draws: SentDraws) -> None:
        """Bring up to date what the device keeps, before a step is computed.

        Args:
            changes: what the last `update` returned, on the device.
            drawing: (R,) int64, the slots of the items that draw in this step, on the device.
            draws: what the step's draws need, on the device.
        """
        kept: list[SlotTables | SlotSettings] = [*self.groups, self.settings]
        for one, new in zip(kept, (*changes, draws.changes), strict=True):
            if self._missed:
                one.send_all()
            else:
                one.send(new)
        self._noted = self._missed = False
        self._drawing, self._draws = drawing, draws

    def draw_params(self, vocab: int) -> DrawParams:
        """The parameters of the draws of the step received last, on the device."""
        assert self._draws is not None
        return self.settings.params(self._draws, vocab)

    def keep(self, tokens: Tensor | Seq[int]) -> None:
        """Keep the tokens that the step has drawn, one per item that draws, for the next step.

        If they are on the device, the host does not wait for them.
        """
        if isinstance(tokens, Tensor):
            self.last_tokens.index_copy_(0, self._drawing, tokens)
        elif self.device.type == "cpu":  # quicker than to make a tensor of them
            self.last_tokens.numpy()[self._drawing.numpy()] = tokens
        else:
            self.last_tokens[self._drawing] = torch.tensor(tokens, device=self.device)


def slot_bytes(num_slots: int, context: int, block_size: int, groups: int = 1) -> int:
    """Bytes that `DeviceSlots` of these sizes takes on the device."""
    tables = 8 * (num_slots + 1) * (groups * ceil_div(context, block_size) + 1)
    return tables + slot_settings_bytes(num_slots)
