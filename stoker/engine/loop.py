"""The loop of steps: plan, launch, wait for the tokens, commit.

    plain     plan 1  launch 1  wait 1  commit 1  plan 2  launch 2  wait 2  commit 2
    overlap   plan 1  launch 1  plan 2  launch 2  wait 1  commit 1  plan 3  launch 3  wait 2 ...

With overlap the device has the next step before the host looks at the last one. The next is then
planned on placeholders for the tokens under way, which the device fills in. A sequence that ends
by its token is found out a step late, and what was computed for it is dropped.

Draws that depend on the tokens before them (penalties, grammars, bad words, processors) are made
when these have been taken in; the device computes the logits meanwhile, and nobody waits:

    plan 1  launch 1  plan 2  launch 2  wait 1  commit 1  draw 2  plan 3  launch 3  wait 2 ...

A step is waited for before the next is planned if it forks a sequence into several samples,
verifies drafts, or scores or pools a prompt. Knows steps, not what is asked or answered; driven
by the engine.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from stoker.engine.execution.pending_step import CompletedStep, FailedStep, PendingStep, Runner
from stoker.engine.execution.pooler import PoolState
from stoker.engine.execution.step_vectors import StepVectors
from stoker.engine.oom import free_unused, is_out_of_memory, requeue_and_shrink
from stoker.engine.sampling.sampler import SamplingBatch
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.sequence import Sequence
from stoker.engine.scheduling.step import Step
from stoker.engine.scheduling.step_time import step_work

Prepare = Callable[[Step], tuple[SamplingBatch, list[PoolState], StepVectors | None]]


@dataclass
class EngineStats:
    """Totals since the engine was made. The computed tokens that are no decodes are prefill."""

    steps: int = 0
    computed_tokens: int = 0
    decode_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    out_of_memory: int = 0  # steps that did not fit and were done again in smaller ones


@dataclass
class InFlightStep:
    """A step under way."""

    step: Step
    draws: SamplingBatch
    begun: float = 0.0  # seconds, on the clock that measures steps
    foreseeable: bool = False  # the next step may be planned before its tokens are known
    handle: PendingStep = field(default_factory=lambda: CompletedStep([]))

    def fail(self, problem: Exception) -> None:
        """Let `problem` be raised when the step is waited for."""
        if is_out_of_memory(problem):
            problem = problem.with_traceback(None)  # its frames hold the step's tensors
        self.handle, self.foreseeable = FailedStep(problem), False


class Loop:
    """Takes steps from plan to commit.

    Args:
        scheduler: plans them.
        runner: computes them.
        stats: is kept up to date.
        overlap: launch the next step before the tokens of one are known, where that can be.
        record: keep every step, for a trace.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        stats: EngineStats,
        overlap: bool = False,
        record: bool = False,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.stats = stats
        self.overlap = overlap
        self.trace: list[Step] | None = [] if record else None
        self._flights: deque[InFlightStep] = deque()  # at most one between two turns
        self._ended = 0.0  # when the tokens of the last step were there

    def turn(self, prepare: Prepare) -> list[Sequence]:
        """Take in the tokens of a step; with overlap, launch the one after it before.

        Returns the sequences that advanced. There are none if memory ran out, and the step, with
        what was planned after it, has been undone. Other errors are raised when the steps before
        the one at fault have been taken in; the caller then drops all requests.

        Args:
            prepare: makes what the runner needs beside a step.
        """
        if not self._flights and not self._launch(prepare):
            return []
        flight = self._flights[0]
        self._draw(flight)
        if self.overlap and flight.foreseeable and self.scheduler.proposer is None:
            self.scheduler.add_placeholders(flight.step)
            self._launch(prepare)
        tokens = self._tokens(flight)
        if tokens is None:
            free_unused()  # here, where the failed step's tensors have gone
            return []
        self._flights.popleft()
        self._time(flight)
        if self.trace is not None and self._flights:
            self.trace[-1] = self.trace[-1].resolved(flight.step.last_tokens(tokens))
        advanced = self.scheduler.commit(flight.step, tokens)
        self.stats.steps += 1
        self.stats.computed_tokens += flight.step.num_tokens
        self.stats.decode_tokens += flight.step.num_decodes
        self.stats.output_tokens += sum(1 for seq in advanced if seq.generated)
        self.stats.output_tokens += sum(self.scheduler.accepted.values())
        return advanced

    def _time(self, flight: InFlightStep) -> None:
        """Tell the scheduler what a step took, if it wants to know.

        With overlap a step is launched while the one before it is computed, and begins with that
        one's end.
        """
        if self.scheduler.step_time is not None:
            now = time.perf_counter()
            seconds = now - max(flight.begun, self._ended)
            self.scheduler.step_time.observe(*step_work(flight.step), seconds)
            self._ended = now

    def discard(self) -> None:
        """Wait for what is under way, and drop it. Draws that have not been made never are."""
        while self._flights:
            with contextlib.suppress(Exception):
                self._flights[0].handle.wait()
            self._flights.popleft()

    def _launch(self, prepare: Prepare) -> bool:
        """Plan a step and launch it; False if there is nothing to do, or not yet."""
        begun = time.perf_counter()
        step = self.scheduler.plan()
        if not step.items:
            return False
        flight = InFlightStep(step, SamplingBatch(), begun)
        self._flights.append(flight)
        if self.trace is not None:
            self.trace.append(step)
        try:
            flight.draws, pools, vectors = prepare(step)
            flight.handle = self.runner.launch(step, flight.draws, pools, vectors)
        except Exception as problem:
            flight.fail(problem)
            return True
        asked = pools or flight.draws.scores
        flight.foreseeable = not asked and all(len(item.draws) < 2 for item in step.items)
        return True

    def _draw(self, flight: InFlightStep) -> None:
        """Make the draws of a step that was launched before the tokens they depend on came."""
        try:
            flight.handle.draw()
        except Exception as problem:
            flight.fail(problem)

    def _tokens(self, flight: InFlightStep) -> list[int] | None:
        """The tokens of the first step under way; None if memory ran out and all is undone."""
        try:
            return flight.handle.wait()
        except Exception as problem:
            steps = [one.step for one in self._flights]
            self._flights.popleft()
            if not is_out_of_memory(problem):
                raise
        self.discard()
        requeue_and_shrink(self.scheduler, steps, first=self.stats.out_of_memory == 0)
        if self.trace is not None:
            del self.trace[-len(steps) :]
        self.stats.out_of_memory += 1
        return None
