"""What computes a step, and a step under way: the contract between the loop and its runner.

No torch here. The model's runner keeps it, and so do the fake ones of tests and benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stoker.engine.scheduling.step import Step

if TYPE_CHECKING:  # they have tensors, which are not looked into here
    from stoker.engine.execution.pooler import PoolState
    from stoker.engine.execution.step_vectors import StepVectors
    from stoker.engine.sampling.sampler import SamplingBatch


class PendingStep(Protocol):
    """A step that has been launched."""

    def draw(self) -> None:
        """Make the draws that depend on tokens which were under way at the launch.

        Called when those have been taken in, before a further step is launched, and before `wait`.
        Does nothing if all draws have been made.
        """

    def wait(self) -> list[int]:
        """The drawn tokens, in the order of the items and of their draws.

        Raises what went wrong in the step.
        """


class Runner(Protocol):
    """Computes steps in the order of their launches."""

    def launch(
        self,
        step: Step,
        draws: SamplingBatch,
        pools: Seq[PoolState] = (),
        vectors: StepVectors | None = None,
    ) -> PendingStep:
        """Begin to compute `step`, and return as soon as it needs the host no more.

        A token that is `LAST_TOKEN` is the one that a step launched before has drawn, or is
        drawing, for the same slot. `draws` has an entry per draw, and takes in what its controls
        and scores ask for; `pools` has an entry per item whose states are wanted, and takes them
        in. `vectors` are those among the tokens of `step`. All results have been taken in when
        `wait` returns. Draws that depend on tokens under way are left to `PendingStep.draw`.
        """


@dataclass(frozen=True)
class CompletedStep:
    """A step that was computed while it was launched."""

    tokens: list[int]

    def draw(self) -> None: ...

    def wait(self) -> list[int]:
        return self.tokens


@dataclass(frozen=True)
class FailedStep:
    """A step that could not be launched."""

    problem: Exception

    def draw(self) -> None: ...

    def wait(self) -> list[int]:
        raise self.problem
