"""What holds of a scheduler between any two steps. Called by tests, after each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.engine.scheduling.sequence import Status
from stoker.engine.scheduling.slot_pool import NO_SLOT

if TYPE_CHECKING:
    from stoker.engine.scheduling.scheduler import Scheduler


def check_scheduler(scheduler: Scheduler) -> None:
    """Assert the invariants of queues, slots, block tables and pools."""
    sequences, running = scheduler.sequences(), scheduler.running
    scheduler.pool.check([seq.tables for seq in sequences])
    assert all(seq.status is Status.RUNNING for seq in running)
    assert len({seq.serial for seq in running}) == len(running)
    scheduler.slots.check(seq.slot for seq in running)
    waiting = len(sequences) - len(running)
    assert waiting == scheduler.num_waiting, f"{waiting} wait, {scheduler.num_waiting} are queued"
    for seq in sequences:
        assert (seq.slot == NO_SLOT) == (seq.status is not Status.RUNNING)
    for seq in running:
        assert 0 <= seq.computed <= len(seq.tokens) <= seq.length_limit
        scheduler.tables.check(seq)
