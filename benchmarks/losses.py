"""Where the time of a run goes that the machine's limit does not ask for.

The limit is the time that the products of weights and of attention take at the measured rate of
packed products. Where reading their weights, keys and values at the measured rate of memory takes
longer, that is a loss of its own. Timers around the model's operations, in a pass of their own,
give each operation its own time, without what it calls; what goes beyond limit and reading is the
operation's loss. So the limit and the losses together are the run.

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

PRODUCTS = "matrix products, below the limit"
ATTENTION = "attention, below the limit"
READING = "waiting for memory: weights, keys and values"
ELEMENTWISE = "norms, rotation and activation"
STATES = "recurrent states"
RECURRENT = ("causal_conv", "gated_delta", "gated_norm", "rg_lru", "selective_scan", "ssd_scan")
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
    """Seconds by name, and what of them the rates allow; nested calls count for the innermost."""

    def __init__(self, rate: float, read: float) -> None:
        self.seconds: collections.Counter[str] = collections.Counter()
        self.allowed: collections.Counter[str] = collections.Counter()
        self.limit = 0.0  # seconds
        self._rates = rate, read
        self._inner = [0.0]
        self._pairs: tuple[Any, Any] = ((), ())
        self._tokens = 0  # of distinct blocks

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        return self._timed(function, name, lambda args, result: (0, 0))

    def linear(self, function: Callable[..., Any], outputs: int) -> Callable[..., Any]:
        def work(args: Any, y: Any) -> tuple[int, int]:
            return 2 * args[0].numel() * outputs, function.weight.nbytes

        return self._timed(function, PRODUCTS, work)

    def experts(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """An expert's weights are read once if a row takes it; each pair of both is multiplied."""

        def work(args: Any, y: Any) -> tuple[int, int]:
            taken = args[1].experts
            tensors = (*function.up_tensors, *function.down_tensors)
            each = sum(tensor[0].nbytes for tensor in tensors)
            weights = sum(tensor[0].numel() for tensor in tensors)
            return 2 * taken.numel() * weights, len(taken.unique()) * each

        return self._timed(function, PRODUCTS, work)

    def attention_plan(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import numpy as np

        def plan(layout: Any) -> Any:
            contexts = np.array(layout.context_lens)
            self._pairs = np.diff(layout.query_starts), contexts
            whole = contexts // layout.block_size
            blocks = layout.block_tables.numpy()
            full = len(np.unique(blocks[np.arange(blocks.shape[1]) < whole[:, None]]))
            self._tokens = full * layout.block_size + int((contexts % layout.block_size).sum())
            return function(layout)

        return plan

    def attention(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def work(args: Any, y: Any) -> tuple[int, int]:
            counts, contexts = self._pairs
            keys, window = args[2], args[4].window
            seen = contexts if window is None else contexts.clip(max=window)
            pairs = int((counts * seen - counts * (counts - 1) // 2).clip(min=counts).sum())
            tokens = self._tokens if window is None else min(self._tokens, int(seen.sum()))
            flops = 4 * pairs * y.shape[1] * y.shape[2]
            return flops, 2 * tokens * keys[0, 0].nbytes

        return self._timed(function, ATTENTION, work)

    def _timed(
        self, function: Callable[..., Any], name: str, work: Callable[..., tuple[int, int]]
    ) -> Callable[..., Any]:
        """`function` with its own time counted; `work` gives the FLOPs and bytes of a call."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent = time.perf_counter() - start
            self.seconds[name] += spent - self._inner.pop()
            flops, read = (
                done / rate for done, rate in zip(work(args, result), self._rates, strict=True)
            )
            self.limit += flops
            self.allowed[READING] += max(read - flops, 0)
            self.allowed[name] += max(flops, read)
            self._inner[-1] += time.perf_counter() - start  # with the counting itself
            return result

        return timed


def products(function: Any) -> int:
    """The outputs that a linear map computes, before its activation joins gates and values."""
    return int(function.out_features) * (2 if getattr(function, "_gate", None) else 1)


def profile(llm: Any, action: Callable[[], object], rate: float, read: float) -> Profile:
    """Run `action`, which uses `llm`, under timers.

    Args:
        llm: a `stoker.LLM` on a CPU.
        action: the run, to be called once.
        rate: FLOP/s that the limit allows.
        read: bytes/s that memory can be read at.
    """
    from stoker.engine.execution import runner as runner_module
    from stoker.model.layers.experts import Experts
    from stoker.model.layers.linear import Linear

    timers = _Timers(rate, read)
    engine, runner = llm.engine, llm.engine.runner
    model = runner.model
    ops, attention = model.ops, model.ops.attention
    names = [field.name for field in dataclasses.fields(ops) if field.name != "attention"]
    timed = {
        name: timers.wrap(getattr(ops, name), STATES if name in RECURRENT else ELEMENTWISE)
        for name in names
    }
    patches: list[tuple[Any, str, Any]] = [
        (module, "_product", timers.linear(module.product, products(module.product)))
        for module in model.modules()
        if isinstance(module, Linear)
    ]
    patches += [
        (module, "_run", timers.experts(module._run))
        for module in model.modules()
        if isinstance(module, Experts)
    ]
    if model.head is None:  # else it is one of the modules
        patches.append((model, "_logits", timers.linear(model._logits, products(model._logits))))
    patches += [
        (model, "ops", dataclasses.replace(ops, **timed)),
        (attention, "run", timers.attention(attention.run)),
        (attention, "plan", timers.attention_plan(attention.plan)),
        (model, "hidden", timers.wrap(model.hidden, BETWEEN)),
        (model, "logits", timers.wrap(model.logits, BETWEEN)),
        (runner_module, "to_arrays", timers.wrap(runner_module.to_arrays, BATCHES)),
        (runner_module, "to_tensors", timers.wrap(runner_module.to_tensors, BATCHES)),
        (runner, "launch", timers.wrap(runner.launch, SAMPLING)),
        (engine, "step", timers.wrap(engine.step, SCHEDULING)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in patches:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        timers.wrap(action, SCHEDULING)()
    total = sum(timers.seconds.values())
    lost = {name: timers.seconds[name] - timers.allowed[name] for name in timers.seconds}
    lost[READING] = timers.allowed[READING]
    ranked = sorted(lost.items(), key=lambda one: -one[1])
    return Profile(
        seconds=total,
        limit_seconds=timers.limit,
        losses=[Loss(name, seconds, seconds / total) for name, seconds in ranked],
    )


def stoker_rate(shape: str, dtype: str = "auto") -> float:
    """The limit's FLOP/s for Stoker's arithmetic, at 64 rows."""
    from workloads import matmul_rate

    from stoker.ops.int8 import prepare_int8, quantize_rows
    from stoker.ops.linear import prepare_linear

    if dtype == "int8":
        return matmul_rate(shape, make=lambda weight: prepare_int8(*quantize_rows(weight)))
    return matmul_rate(shape, make=prepare_linear)


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
    from workloads import WORK, make_model, read_rate

    shape, load = WORK[work].shape, WORK[work].make()
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name), shape)
        run = make(Path(name), threads, work, dtype=dtype)
        run(load[:8])
        return profile(run.llm, lambda: run(load), stoker_rate(shape, dtype), read_rate())


if __name__ == "__main__":
    main()
