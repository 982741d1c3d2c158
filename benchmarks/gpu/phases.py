"""Where the host's time goes in a step of an engine: timers around the parts of its loop.

    plan       the scheduler decides who runs
    prepare    parameters of draws are gathered
    launch     all of the runner but the wait; within it:
      to_arrays  the step as arrays
      upload     arrays to the device
      attention  the plan of attention
    draw       draws left out at the launch (PendingStep.draw)
    wait       for the tokens
    commit     sequences advance
    collect    outputs are brought up to date

With overlap, all but the wait is hidden where the device takes longer.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from stoker.engine.execution import runner, step_tensors
from stoker.engine.sampling import sampler

WITHIN_LAUNCH = ("to_arrays", "upload", "attention")


class _TimedHandle:
    """A step under way; its wait is timed."""

    def __init__(self, handle: Any, timed: Callable[..., Any]) -> None:
        self.draw, self.wait = timed("draw", handle.draw), timed("wait", handle.wait)


@contextlib.contextmanager
def phases(engine: Any) -> Iterator[dict[str, float]]:
    """A dict that is filled with the seconds of each phase while the block runs."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    launch = timed("launch", engine.runner.launch)
    attend = engine.runner.model.ops.attention
    with contextlib.ExitStack() as stack:

        def wrap(owner: Any, attribute: str, name: str) -> None:
            work = timed(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, work))

        wrap(engine.scheduler, "plan", "plan")
        wrap(engine.scheduler, "commit", "commit")
        wrap(engine, "_prepare", "prepare")
        wrap(engine, "_collect", "collect")
        wrap(runner, "to_arrays", "to_arrays")
        for module in (step_tensors, runner, sampler):
            wrap(module, "upload", "upload")
        for name in ("plan", "refill"):
            if hasattr(attend, name):
                wrap(attend, name, "attention")
        stack.enter_context(
            mock.patch.object(
                engine.runner, "launch", lambda *args: _TimedHandle(launch(*args), timed)
            )
        )
        yield spent
