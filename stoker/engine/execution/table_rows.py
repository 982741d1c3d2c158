"""Which row of a device's block tables a running sequence has, and what has changed in it.

A sequence has a row from its first step on; one that left gives its row back when there is none
for another. Knows serial numbers and blocks, no queue and no torch. Called by `describe`.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
FEW = 64  # rows to begin with, and blocks by which a row grows
IDLE = 0  # the row of nobody, whose entries are all the idle block


class TableRows:
    """Block tables by row, on the host.

    Attributes:
        idle_block: what unused entries hold.
        entries: (rows, width) int64; another array whenever it has grown.
        updates: how many there have been, to tell if the device has missed one.
    """

    def __init__(self, idle_block: int = 0) -> None:
        self.idle_block = idle_block
        self.entries: Ints = np.full((FEW, FEW), idle_block)
        self.updates = 0
        self._rows: dict[int, int] = {}  # by the sequence's serial number
        self._free = [*range(FEW - 1, IDLE, -1)]
        self._known: list[tuple[int, ...]] = [()] * FEW  # the blocks of each row

    def update(self, serials: Seq[int], tables: Seq[tuple[int, ...]]) -> tuple[Ints, Ints]:
        """Take note of the block tables of a step's sequences.

        Returns their rows, (S,), and what is new: (2, C), places in the flattened `entries` and
        what they hold now.
        """
        self.updates += 1
        known = self._known
        try:
            rows = [*map(self._rows.__getitem__, serials)]
        except KeyError:  # some are new
            rows = [self._row(serial, serials) for serial in serials]
        # a sequence keeps its tuple until it changes
        pairs = zip(rows, tables, strict=True)
        changed = [(row, blocks) for row, blocks in pairs if known[row] is not blocks]
        self.widen(max((len(blocks) for _, blocks in changed), default=0))
        at: list[int] = []
        new: list[int] = []
        for row, blocks in changed:
            before, start = known[row], row * self.entries.shape[1]
            first = len(before) if blocks[: len(before)] == before else 0
            end = max(len(before), len(blocks))
            at += range(start + first, start + end)
            new += blocks[first:]
            new += [self.idle_block] * (end - len(blocks))
            known[row] = blocks
        changes = np.array((at, new), np.int64)
        self.entries.reshape(-1)[changes[0]] = changes[1]
        return np.array(rows, np.int64), changes

    def widen(self, width: int) -> None:
        """Have room for `width` blocks in each row."""
        added = -(-(width - self.entries.shape[1]) // FEW) * FEW
        if added > 0:
            self._grow(0, added)

    def _row(self, serial: int, serials: Seq[int]) -> int:
        """The row of `serial`, which gets one if it has none; those of `serials` stay."""
        found = self._rows.get(serial)
        if found is not None:
            return found
        if not self._free:
            self._free = [self._rows.pop(gone) for gone in self._rows.keys() - {*serials}]
        if not self._free:
            have = len(self.entries)
            self._grow(have, 0)
            self._known += [()] * have
            self._free = [*range(2 * have - 1, have - 1, -1)]
        self._rows[serial] = self._free.pop()
        return self._rows[serial]

    def _grow(self, rows: int, width: int) -> None:
        self.entries = np.pad(
            self.entries, ((0, rows), (0, width)), constant_values=self.idle_block
        )


def most_bytes(sequences: int, blocks: int) -> int:
    """What the tables of so many sequences, of so many blocks each, take on a device."""
    return 8 * max(FEW, 2 * (sequences + 1)) * (-(-blocks // FEW) * FEW)
