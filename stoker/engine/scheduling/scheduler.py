"""Decides what every step computes: plan() makes a `Step`, commit() takes its tokens in.

Between the two, add_placeholders() lets the next step be planned on tokens that are still being
drawn. Each running sequence has a slot, its place on the device. There are no phases: decodes and
prefill chunks share a step under one token budget. Knows requests, blocks and counts, no tensors.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence as Seq

from stoker.engine.blocks.cache_pool import CachePool
from stoker.engine.blocks.groups import GroupSize
from stoker.engine.request.request import Request
from stoker.engine.scheduling.block_tables import BlockTables
from stoker.engine.scheduling.drafts import Proposer, accept, propose
from stoker.engine.scheduling.forecast import Forecast, LengthEstimator
from stoker.engine.scheduling.invariants import check_scheduler
from stoker.engine.scheduling.length_limit import length_limit
from stoker.engine.scheduling.policy import POLICIES
from stoker.engine.scheduling.sequence import Sequence, Status, finish_reason
from stoker.engine.scheduling.slot_pool import NO_SLOT, SlotPool
from stoker.engine.scheduling.states import NO_STOP, States
from stoker.engine.scheduling.step import LAST_TOKEN, NOT_SCORED, PlannedStep, Step, StepItem
from stoker.engine.scheduling.step_time import StepTime


class Scheduler:
    """Continuous batching with chunked prefill over a block pool.

    Args:
        groups: the cache's groups of layers, each with blocks of its own.
        block_size: tokens per block.
        max_batch_tokens: most tokens per step.
        max_running: most sequences holding blocks; never more than `max_batch_tokens`, so
            that every running decode advances in every step.
        max_context: most tokens of a sequence.
        eos_ids: the model's end-of-sequence ids.
        prefix_cache: reuse blocks with equal content.
        policy: name of the order of admission, a key of `POLICIES`.
        step_time: seconds that a step with a chunk of a prompt is to take; None: chunks are as
            large as the budget.
        snapshot_every: blocks from one snapshot of a prompt's state to the next (states.py).
    """

    def __init__(
        self,
        *,
        groups: Seq[GroupSize],
        block_size: int,
        max_batch_tokens: int,
        max_running: int,
        max_context: int,
        eos_ids: frozenset[int] = frozenset(),
        prefix_cache: bool = True,
        policy: str = "fcfs",
        step_time: float | None = None,
        snapshot_every: int = 1,
    ) -> None:
        self.pool = CachePool(groups, block_size)
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_running = min(max_running, max_batch_tokens)
        self.max_context = max_context
        self.eos_ids = eos_ids
        self.tables = BlockTables(self.pool, prefix_cache)
        self.states = States.of(self.tables, max_running, snapshot_every)
        self.lengths = LengthEstimator()
        self.step_time = None if step_time is None else StepTime(step_time, block_size)
        self.waiting = POLICIES[policy](self.tables)
        self.preempted: deque[Sequence] = deque()  # go before all that wait
        self.running: list[Sequence] = []  # in order of admission
        self.num_preemptions = 0
        self.slots = SlotPool(self.max_running)  # as many, even if `max_running` is lowered
        self.proposer: Proposer | None = None  # with one, no step is planned ahead
        self.accepted: dict[int, int] = {}  # drafts that the last commit kept, by serial number
        self._by_serial: dict[int, Sequence] = {}
        self._serials, self._steps = itertools.count(1), itertools.count(1)

    # -- requests in and out ---------------------------------------------------------------

    def add(self, request: Request) -> Sequence:
        """Queue `request`; its other samples appear when its prompt has been computed.

        Raises:
            InvalidRequestError: it could never run, with the numbers that say why.
        """
        limit = length_limit(request, self.pool, self.max_context)
        seq = Sequence(request, next(self._serials), limit)
        self._by_serial[seq.serial] = seq
        self.waiting.add(seq)
        return seq

    @property
    def max_length(self) -> int:
        """Most tokens any sequence can have, by the context and by the cache."""
        return int(min(self.max_context, self.pool.max_length))

    def cancel(self, seq: Sequence) -> None:
        """End `seq` between two steps, whatever it is doing."""
        if seq.status is not Status.FINISHED:
            self._unqueue(seq)
            self._finish(seq, "cancelled")

    def _unqueue(self, seq: Sequence) -> None:
        if seq.status is Status.RUNNING:
            self.running.remove(seq)
        elif seq in self.preempted:
            self.preempted.remove(seq)
        else:
            self.waiting.discard(seq)

    def finish(self, seq: Sequence, reason: str) -> None:
        """End a sequence for a reason the scheduler does not see (a stop string, an error)."""
        if seq.status is Status.FINISHED:
            seq.finish_reason = reason
            return
        self._unqueue(seq)
        if reason != "error":
            self.lengths.observe(seq.generated)
        self._finish(seq, reason)

    def reset(self) -> None:
        """Drop every sequence and all cached content, after a step that did not complete."""
        for seq in tuple(self._by_serial.values()):
            self.cancel(seq)
        self.pool.clear_cache()
        if self.states is not None:
            self.states.clear()

    @property
    def has_work(self) -> bool:
        return bool(self._by_serial)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + len(self.preempted)

    def __getitem__(self, serial: int) -> Sequence:
        return self._by_serial[serial]

    def sequences(self) -> list[Sequence]:
        return list(self._by_serial.values())

    # -- plan ------------------------------------------------------------------------------

    def plan(self) -> Step:
        """Choose the next step's work. Empty only when there is nothing to do.

        Decodes come first, so every running one advances; then prompts under way get what is
        left of the budget; then waiting requests are admitted while the forecast fits.
        """
        plan = PlannedStep(next(self._steps), self.max_batch_tokens)
        guess = self.proposer
        drafts = propose(guess, self.running, self.max_batch_tokens) if guess else {}
        prompts = []
        has_place = self.tables.has_place
        for seq in tuple(self.running):
            remaining = len(seq.tokens) - seq.computed
            if remaining > 1:
                prompts.append(seq)
            elif not remaining or not plan.budget:
                continue
            elif drafts or seq.computed < seq.prompt_len or not has_place(seq):
                self._plan_sequence(plan, seq, drafts.get(seq.serial))
            elif seq.status is Status.RUNNING:  # else preempted earlier in this plan
                self._plan_decode(plan, seq)
        for seq in prompts:
            if plan.budget:
                self._plan_sequence(plan, seq)
        self._admit(plan)
        if self.states is not None:
            self.states.finish(plan)
        return plan.done()

    def _plan_decode(self, plan: PlannedStep, seq: Sequence) -> None:
        """What `_plan_sequence` does with the newest token of an answer if its place is there.

        Nearly all items of a long run are such. Without what concerns prompts, drafts and missing
        blocks they take a third less time.
        """
        start = seq.computed
        seq.computed, seq.planned = start + 1, plan.number
        plan.items.append(
            StepItem(seq.serial, seq.slot, start, (seq.tokens[start],), seq.tables, (seq.index,))
        )
        plan.budget -= 1
        if seq.computed >= (seq.num_indexed + 1) * self.block_size:
            self.tables.index_filled(seq)

    def _plan_sequence(
        self, plan: PlannedStep, seq: Sequence, drafts: Seq[int] | None = None
    ) -> None:
        """Give `seq` as much of the budget as its tokens and the free blocks allow.

        `drafts` are added to its tokens, as far as there are blocks for them.
        """
        if seq.status is not Status.RUNNING:
            return  # preempted earlier in this plan
        count, stop = seq.remaining, NO_STOP
        if count > 1:
            if self.states is None:
                self.tables.take_prefix(seq)
            else:
                stop = self.states.take_prefix(seq)
            count = min(seq.remaining, plan.budget, stop - seq.computed)
            if self.step_time is not None:
                most = self.step_time.most_tokens(plan.items, seq.computed)
                if most < count:
                    plan.budget = count = most  # so nothing is added to the step
        if count > 1 or not self.tables.has_place(seq):  # most decodes have one
            self.tables.free_behind(seq)
            if not self._make_room(plan, seq, count):
                room = self.tables.free_tokens(seq) if seq.status is Status.RUNNING else 0
                if (count := min(count, room)) <= 0:
                    return
            if count == 1 and self.states is not None:
                self.states.save_answer(seq)
            plan.copies += self.tables.allocate(seq, count)
        if drafts:
            count += self.tables.add_drafts(seq, drafts, len(self.running))
        start, end = seq.computed, seq.computed + count
        last = end == len(seq.tokens)
        draws = tuple(range(seq.index, seq.index + seq.pending_samples)) if last else ()
        tokens, states = tuple(seq.tokens[start:end]), seq.states(start, end)
        scored = NOT_SCORED if seq.may_reuse else seq.score(start, end)
        seq.computed, seq.planned = end, plan.number
        tables, verify = seq.tables, seq.num_drafts
        plan.items.append(
            StepItem(seq.serial, seq.slot, start, tokens, tables, draws, states, scored, verify)
        )
        plan.budget -= count
        self.tables.index_filled(seq)
        if self.states is not None and end == stop:
            self.states.save(seq)

    def _make_room(self, plan: PlannedStep, seq: Sequence, count: int) -> bool:
        """Preempt the last admitted until `count` tokens fit; False if they can't.

        Sequences that are part of this step already are spared. A decode that is itself the
        last one is preempted; a prefill stays, and takes what there is.
        """
        while self.tables.needed(seq, count) > self.pool.available:
            victim = next((s for s in reversed(self.running) if s.planned != plan.number), None)
            if victim is None:
                return False
            if victim is seq and (seq.remaining > 1 or len(self.running) == 1):
                return False
            self._preempt(plan, victim)
            if victim is seq:
                return False
        return True

    def _preempt(self, plan: PlannedStep, seq: Sequence) -> None:
        """Take the blocks of `seq` back. Its tokens stay and are computed again later."""
        self.running.remove(seq)
        plan.preempted.append(seq.serial)
        self.put_back(seq)
        self.num_preemptions += 1

    def put_back(self, seq: Sequence) -> None:
        """Let `seq`, which is no longer in `running`, wait before all others without its blocks."""
        self.tables.release(seq)
        self.slots.release(seq.slot)
        seq.drop_cache()
        seq.status, seq.slot = Status.WAITING, NO_SLOT
        self.preempted.appendleft(seq)

    def _admit(self, plan: PlannedStep) -> None:
        if len(self._by_serial) == len(self.running):
            return  # nobody waits
        forecast: Forecast | None = None
        # once room had to be made for one that was admitted, the others wait
        while plan.budget and not plan.preempted and len(self.running) < self.max_running:
            seq = self.preempted[0] if self.preempted else self.waiting.peek()
            if seq is None:
                return
            if self.running:
                if forecast is None:
                    forecast = Forecast(
                        self.running, self.pool, self.lengths, self.max_batch_tokens
                    )
                if not forecast.fits(seq, self.tables.peek_prefix(seq)):
                    return
                forecast.accept()
            if self.preempted:
                self.preempted.popleft()
            else:
                self.waiting.pop()
            # by the time it waits for a slot, the token that it had under way is known
            assert seq.tokens[-1] != LAST_TOKEN
            seq.status, seq.slot = Status.RUNNING, self.slots.take()
            self.running.append(seq)
            plan.admitted.append(seq.serial)
            self._plan_sequence(plan, seq)

    # -- commit ----------------------------------------------------------------------------

    def add_placeholders(self, step: Step) -> None:
        """Let `plan` go on while `step`, the last one, is still being computed.

        Each sequence that draws there gets `LAST_TOKEN` in place of its token, unless that token
        is its last by length. `step` must have no item with several draws.
        """
        for item in step.items:
            if item.draws:
                seq = self._by_serial.get(item.sequence)
                if seq is not None and len(seq.tokens) + 1 < seq.length_limit:
                    seq.tokens.append(LAST_TOKEN)

    def drop_placeholders(self) -> None:
        """Take placeholders and drafts back, because the step that draws them has failed."""
        for seq in (*self.running, *self.preempted):
            seq.drop_drafts()
            if seq.tokens[-1] == LAST_TOKEN:
                seq.tokens.pop()

    def commit(self, step: Step, tokens: Seq[int]) -> list[Sequence]:
        """Take in the drawn tokens, in the order of the items of `step` and of their draws.

        Drafts stay if they equal what was drawn at their positions (drafts.py).

        Returns the sequences that got a token, and pooled ones whose prompt is done; finished
        ones are among them. A finished one may be part of a step under way: what that computes
        for it is dropped, and its slot and blocks are written to no later than by whoever gets
        them next (slot_pool.py).
        """
        advanced: list[Sequence] = []
        twins: list[tuple[int, Sequence]] = []  # with the slot of the first sample
        self.accepted = {}
        taken, drafted = 0, self.proposer is not None
        for item in step.items:
            first, taken = taken, taken + len(item.draws)
            if drafted:
                taken += item.verify
            seq = self._by_serial.get(item.sequence)
            if seq is None:
                continue  # cancelled meanwhile
            if len(item.tokens) > 1 and not item.verify:
                self.tables.free_behind(seq)  # a decode does so when it needs another block
            if not item.draws:  # a prompt still under way, or one to be pooled
                if seq.request.pooling and item.end == seq.prompt_len:
                    advanced.append(seq)
                continue
            advanced.append(seq)
            if drafted and item.verify:
                self.accepted[seq.serial] = accept(seq, tokens[first:taken], self.eos_ids)
                self.tables.shrink(seq)
                self.tables.index_filled(seq)
                self.tables.free_behind(seq)
                continue
            seq.pending_samples = 1
            seq.draw(tokens[first])
            for at in range(first + 1, taken):
                twin = self._fork(seq, item.draws[at - first])
                twin.draw(tokens[at])
                advanced.append(twin)
                twins.append((item.slot, twin))
        assert taken == len(tokens)
        for seq in advanced:
            reason = finish_reason(seq, self.eos_ids)
            if reason:
                # neither a pooled prompt nor a length set beforehand teaches anything
                if seq.request.pooling is None and not seq.request.params.ignore_eos:
                    self.lengths.observe(seq.generated)
                if seq.status is Status.WAITING:
                    self._unqueue(seq)  # preempted while its last token was drawn
                self._finish(seq, reason)
            elif not seq.remaining:
                self.tables.index_filled(seq)  # planned ahead, and now its content is known
        self.running = [seq for seq in self.running if seq.status is Status.RUNNING]
        while len(self.running) > self.max_running:
            self.put_back(self.running.pop())
        for source, twin in twins:  # now that there are no more than slots
            if twin.status is Status.RUNNING:
                twin.slot = self.slots.take()
                if self.states is not None:
                    self.states.fork(source, twin.slot)
        return advanced

    def _fork(self, seq: Sequence, index: int) -> Sequence:
        twin = seq.fork(next(self._serials), index)
        self.tables.share(twin)
        twin.status = Status.RUNNING
        self._by_serial[twin.serial] = twin
        self.running.append(twin)
        return twin

    def _finish(self, seq: Sequence, reason: str) -> None:
        self.tables.release(seq)
        self.slots.release(seq.slot)
        seq.tables, seq.slot = (), NO_SLOT
        seq.status, seq.finish_reason = Status.FINISHED, reason
        del self._by_serial[seq.serial]

    def check(self) -> None:
        """Assert the invariants that hold between any two steps."""
        check_scheduler(self)
