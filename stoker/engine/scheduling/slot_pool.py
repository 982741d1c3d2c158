"""Slots: the places that running sequences have on the device.

Whatever the device keeps about a sequence lies at its slot: its block tables, the token it drew
last. A slot is taken when a sequence begins to run and is free again when it ends or is preempted,
even if a step under way still has the sequence in it. The device runs steps in order, so whoever
gets the slot next writes to it after that step has:

    sequence a runs in slot 0 and ends by its token in step 1, which is found out after step 2
    has been launched; b is waiting

    host              plan 1   plan 2   commit 1: a ends    plan 3: b gets slot 0
    device            step 1: a         step 2: a           step 3: b          step 4: b
    slot 0, table     a's               a's                 b's                b's
    slot 0, token     a's last          dropped             b's first          read, and b's next
"""

from __future__ import annotations

from collections.abc import Iterable

NO_SLOT = -1


class SlotPool:
    """Hands out the slots 0 to `num_slots` - 1, the one that was given back last first."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free: list[int] = [*range(num_slots - 1, -1, -1)]

    def take(self) -> int:
        """A free slot. The caller runs no more than `num_slots` sequences."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Take a slot back; `NO_SLOT` is ignored."""
        if slot != NO_SLOT:
            self._free.append(slot)

    def check(self, used: Iterable[int]) -> None:
        """Assert that each slot is either free or used by one sequence."""
        slots = sorted([*used, *self._free])
        assert slots == [*range(self.num_slots)], "a slot is shared, lost, or both free and used"
