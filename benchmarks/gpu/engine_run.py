"""Runs a case on the engine: warmed up, timed, its decode steps taken apart.

Knows the engine and cases, no bounds and no reports.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import Case
from device_time import trace
from machine import sampling
from models import config_of, weightless, write_config
from phases import WITHIN_LAUNCH, phases
from workload import Workload, fixed

from stoker import LLM, SamplingParams
from stoker.engine.execution.buckets import sizes
from stoker.engine.request.request import Request

REHEARSAL = 6.0  # seconds of a case before it is timed, in which what is left gets compiled


def options_of(case: Case, device: torch.device, smoke: bool) -> dict[str, Any]:
    """The options of `LLM`; tiny models have nothing that gains by fp8, and need few blocks."""
    options = {"device": device.type, "dtype": "bfloat16", **case.options}
    if smoke:
        options |= {"max_running": 8, "max_batch_tokens": 64}
        options["dtype"] = "float32" if device.type == "cpu" else "bfloat16"
    if device.type == "cpu":
        options |= {"num_blocks": 200, "overlap": True}
    return options


def make_llm(case: Case, device: torch.device, smoke: bool, **changes: Any) -> LLM:
    """The engine of a case, on random weights; `changes` to its options."""
    with tempfile.TemporaryDirectory() as folder, weightless():
        write_config(Path(folder), config_of(case.model, smoke))
        return LLM(folder, **{**options_of(case, device, smoke), **changes})


def add_all(llm: LLM, work: Workload, outputs: tuple[int, ...] | None = None) -> None:
    """Queue the requests of `work`, with its lengths of outputs or others."""
    llm.engine.scheduler.pool.clear_cache()
    for number, (prompt, count) in enumerate(
        zip(work.prompts, outputs or work.outputs, strict=True)
    ):
        params = SamplingParams(
            n=work.samples, temperature=work.temperature, max_tokens=count, ignore_eos=True
        )
        llm.engine.add(Request(f"r{number}", prompt, params, seed=number))


def warm_up(llm: LLM) -> float:
    """Compile kernels and capture graphs: seconds that a run of all sizes of decodes takes.

    Requests end such that each number of sequences that a graph has stays for two steps, of which
    the first captures.
    """
    running = llm.engine.scheduler.max_running
    known = sizes(running)
    outputs = []
    for at, size in enumerate(known):  # those up to a size end when the next smaller is due
        more = size - (known[at - 1] if at else 0)
        outputs += [2 * (len(known) - at) + 1] * more
    start = time.perf_counter()
    add_all(llm, fixed(running, 2, 1, 100), tuple(outputs))
    while llm.engine.has_work:
        llm.engine.step()
    # a chunk alone, and one that is drawn from
    add_all(llm, fixed(1, min(llm.engine.scheduler.max_length - 4, 3000), 2, 100))
    while llm.engine.has_work:
        llm.engine.step()
    return time.perf_counter() - start


def timed_run(llm: LLM, work: Workload, limit: float) -> dict[str, Any]:
    """Run `work`, for at most `limit` seconds; what was done and how fast.

    Raises:
        RuntimeError: a completion does not have its length.
    """
    engine = llm.engine
    before = vars(engine.stats).copy()
    preempted = engine.scheduler.num_preemptions
    add_all(llm, work)
    finished = []
    with sampling() as gpu:
        start = time.perf_counter()
        while engine.has_work and time.perf_counter() - start < limit:
            finished += engine.step()
        seconds = time.perf_counter() - start
    cut = engine.has_work
    done = {name: value - before[name] for name, value in vars(engine.stats).items()}
    engine.abort_all()
    found = sorted(len(one.token_ids) for output in finished for one in output.outputs)
    if not cut and found != sorted(work.outputs * work.samples):
        raise RuntimeError("the lengths of completions are not those that were asked for")
    return {
        "seconds": seconds,
        "cut": cut,
        "output_tokens": done["output_tokens"],
        "output_tokens_per_s": done["output_tokens"] / seconds,
        "total_tokens_per_s": None
        if cut
        else (work.input_tokens + done["output_tokens"]) / seconds,
        "steps": done["steps"],
        "computed_tokens": done["computed_tokens"],
        "out_of_memory": done["out_of_memory"],
        "preemptions": engine.scheduler.num_preemptions - preempted,
        "gpu": gpu,
    }


def start_decodes(llm: LLM, work: Workload, room: int) -> int:
    """Bring as many requests as can run to where all decode, with `room` tokens to go.

    Returns how many sequences there are.
    """
    engine, scheduler = llm.engine, llm.engine.scheduler
    longest = scheduler.max_length
    some = work.first(-(-scheduler.max_running // work.samples))
    computed = some.input_tokens - some.common * (len(some.prompts) - 1)
    steps = 2 * -(-computed // scheduler.max_batch_tokens) + 4
    add_all(llm, some, tuple(min(steps + room, longest - len(one)) for one in some.prompts))
    for _ in range(steps):
        stats = vars(engine.stats).copy()
        engine.step()
        tokens = engine.stats.computed_tokens - stats["computed_tokens"]
        decodes = engine.stats.decode_tokens - stats["decode_tokens"]
        if tokens == decodes > 0 and not scheduler.num_waiting:
            break
    return len(scheduler.running)


def decode_steps(llm: LLM, work: Workload, count: int) -> dict[str, Any]:
    """Milliseconds of a decode step: by the clock, on the device, and on the host by phase.

    `host_share` is the part of a step in which the device has nothing to do, None on a CPU.
    """
    engine, device = llm.engine, llm.engine.runner.device
    rows = start_decodes(llm, work, 4 * count)

    def some() -> None:
        for _ in range(count):
            engine.step()

    some()
    start = time.perf_counter()
    some()
    wall = (time.perf_counter() - start) / count
    with phases(engine) as spent:
        some()
    seen = trace(some, device)
    busy = seen.busy / count
    engine.abort_all()
    within = {name: spent.pop(name, 0.0) / count * 1e3 for name in WITHIN_LAUNCH}
    return {
        "sequences": rows,
        "steps": count,
        "wall_ms": wall * 1e3,
        "device_ms": busy * 1e3,
        "host_share": max(0.0, 1 - busy / wall) if device.type == "cuda" else None,
        "host_ms": {name: seconds / count * 1e3 for name, seconds in spent.items()},
        "within_launch_ms": within,
        "kernels_ms": {
            name: seconds / count * 1e3 for name, _, seconds in seen.top(8 if rows else 0)
        },
    }


def memory_of(llm: LLM) -> dict[str, Any]:
    """The budget line by line, bytes of the graphs by the tokens of each, and torch's peak."""
    graphs = llm.engine.runner.graphs
    cuda = llm.engine.runner.device.type == "cuda"
    return {
        "budget": dict(llm.budget.lines()) if llm.budget else None,
        "graphs": {f"{b.tokens}x{b.sequences}": n for b, n in graphs.memory.items()}
        if graphs
        else None,
        "peak_allocated": torch.cuda.max_memory_allocated() if cuda else None,
    }


def run_case(
    case: Case,
    device: torch.device,
    smoke: bool,
    limit: float,
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """All that is measured of a case; `keep` is given what there is before steps are profiled."""
    work = case.tiny() if smoke else case.work()
    start = time.perf_counter()
    with make_llm(case, device, smoke) as llm:
        found = {
            "hash": work.hash(),
            "input_tokens": work.input_tokens,
            "asked_output_tokens": work.output_tokens,
            "make_s": time.perf_counter() - start,
            "attention": type(llm.engine.runner.model.ops.attention).__name__,
            "options": case.options,
            "running": llm.engine.scheduler.max_running,
            "warm_up_s": warm_up(llm),
        }
        timed_run(llm, work, REHEARSAL)
        found |= timed_run(llm, work, limit)
        keep(found)
        found["decode_step"] = decode_steps(llm, work, 2 if smoke else 20)
        found["memory"] = memory_of(llm)
    return found
