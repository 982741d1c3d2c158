"""Where the time of a run goes that the machine's limit does not ask for.

The limit is the time that the products of weights and of attention take at the measured rate of
packed products. Timers around the model's operations, in a pass of their own, give each
operation its own time, without what it calls; a loss is that time less what the limit allows.
So the limit and the losses together are the run.

    python benchmarks/losses.py 17m 107m prefix [--dtype int8] [--threads 2]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

FEW = 16  # rows; a product of so few waits for the weights to be read
FEW_ROWS = f"matrix products of {FEW} rows or fewer, below the limit"
MANY_ROWS = f"matrix products of more than {FEW} rows, below the limit"
ATTENTION = "attention, below the limit"
ELEMENTWISE = "norms, rotation and activation"
BETWEEN = "between the kernels"
BATCHES = "building batches"
SAMPLING = "sampling and checks of logits"
SCHEDULING = "scheduling and bookkeeping"


@dataclasses.dataclass(frozen=True)
class Loss:
    """Time above the limit under one name, and its share of the run."""

    name: str
    seconds: float
    share: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """A profiled run: its time, what the limit allows, and the losses, the largest first."""

    seconds: float
    limit_seconds: float
    losses: list[Loss]


class _Timers:
    """Seconds and FLOPs by name; nested calls count for the innermost."""

    def __init__(self) -> None:
        self.seconds: collections.Counter[str] = collections.Counter()
        self.flops: collections.Counter[str] = collections.Counter()
        self._inner = [0.0]
        self._pairs: tuple[Any, Any] = ((), ())

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        return self._timed(function, lambda args, kwargs, result: (name, 0))

    def linear(self, function: Callable[..., Any], outputs: int) -> Callable[..., Any]:
        def told(args: Any, kwargs: Any, y: Any) -> tuple[str, int]:
            x = args[0]
            return FEW_ROWS if len(x) <= FEW else MANY_ROWS, 2 * x.numel() * outputs

        return self._timed(function, told)

    def attention_plan(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import numpy as np

        def plan(layout: Any) -> Any:
            self._pairs = np.diff(layout.query_starts), np.array(layout.context_lens)
            return function(layout)

        return plan

    def attention(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def told(args: Any, kwargs: Any, y: Any) -> tuple[str, int]:
            counts, contexts = self._pairs
            window = args[4].window
            seen = contexts if window is None else contexts.clip(max=window)
            pairs = int((counts * seen - counts * (counts - 1) // 2).clip(min=counts).sum())
            return ATTENTION, 4 * pairs * y.shape[1] * y.shape[2]

        return self._timed(function, told)

    def _timed(
        self, function: Callable[..., Any], tell: Callable[..., tuple[str, int]]
    ) -> Callable[..., Any]:
        """`function` with its own time counted; `tell` gives the name and the FLOPs of a call."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent = time.perf_counter() - start
            name, flops = tell(args, kwargs, result)
            self.seconds[name] += spent - self._inner.pop()
            self.flops[name] += flops
            self._inner[-1] += spent
            return result

        return timed


def products(function: Any) -> int:
    """The outputs that a linear map computes, before its activation joins gates and values."""
    return int(function.out_features) * (2 if getattr(function, "_gate", None) else 1)


def profile(llm: Any, action: Callable[[], object], rate: float) -> Profile:
    """Run `action`, which uses `llm`, under timers.

    Args:
        llm: a `stoker.LLM` on a CPU.
        action: the run, to be called once.
        rate: FLOP/s that the limit allows.
    """
    from stoker.engine import runner as runner_module
    from stoker.model.transformer import Linear

    timers = _Timers()
    engine, runner = llm.engine, llm.engine.runner
    model = runner.model
    ops, attention = model.ops, model.ops.attention
    names = [field.name for field in dataclasses.fields(ops) if field.name != "attention"]
    timed = {name: timers.wrap(getattr(ops, name), ELEMENTWISE) for name in names}
    patches: list[tuple[Any, str, Any]] = [
        (module, "_apply_fn", timers.linear(module._apply_fn, products(module._apply_fn)))
        for module in model.modules()
        if isinstance(module, Linear)
    ]
    if model.head is None:  # else it is one of the modules
        patches.append((model, "_logits", timers.linear(model._logits, products(model._logits))))
    patches += [
        (model, "ops", dataclasses.replace(ops, **timed)),
        (attention, "run", timers.attention(attention.run)),
        (attention, "plan", timers.attention_plan(attention.plan)),
        (model, "hidden", timers.wrap(model.hidden, BETWEEN)),
        (model, "logits", timers.wrap(model.logits, BETWEEN)),
        (runner_module, "describe", timers.wrap(runner_module.describe, BATCHES)),
        (runner_module, "build_batch", timers.wrap(runner_module.build_batch, BATCHES)),
        (runner, "launch", timers.wrap(runner.launch, SAMPLING)),
        (engine, "step", timers.wrap(engine.step, SCHEDULING)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in patches:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        timers.wrap(action, SCHEDULING)()
    total = sum(timers.seconds.values())
    lost = {name: timers.seconds[name] - timers.flops[name] / rate for name in timers.seconds}
    ranked = sorted(lost.items(), key=lambda one: -one[1])
    return Profile(
        seconds=total,
        limit_seconds=sum(timers.flops.values()) / rate,
        losses=[Loss(name, seconds, seconds / total) for name, seconds in ranked],
    )


def stoker_rate(shape: str, dtype: str = "auto") -> float:
    """The limit's FLOP/s for Stoker's arithmetic, at 64 rows."""
    from workloads import matmul_rate

    from stoker.ops.int8 import prepare_int8
    from stoker.ops.linear import prepare_linear

    return matmul_rate(shape, make=prepare_int8 if dtype == "int8" else prepare_linear)


def main() -> None:
    from workloads import WORK

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="+", choices=[*WORK])
    parser.add_argument("--dtype", default="float32", choices=("float32", "int8"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    for work in args.workloads:
        found = _of_workload(work, args.dtype, args.threads)
        print(
            f"\n{work}: {found.seconds:.2f} s under timers, "
            f"{found.limit_seconds:.2f} s at the limit's rate, lost:"
        )
        for loss in found.losses:
            print(f"  {loss.seconds:7.3f} s {loss.share:6.1%}  {loss.name}")


def _of_workload(work: str, dtype: str, threads: int) -> Profile:
    from peer_stoker import make
    from workloads import WORK, make_model

    shape, load = WORK[work].shape, WORK[work].make()
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name), shape)
        run = make(Path(name), threads, work, dtype=dtype)
        run(load[:8])
        return profile(run.llm, lambda: run(load), stoker_rate(shape, dtype))


if __name__ == "__main__":
    main()
