"""Where the time goes on a GPU: steps by kernel and by phase of the host, and operations alone.

    python benchmarks/gpu/profiles.py [--only steps draws rows products loading] [--json FILE]
    python benchmarks/gpu/profiles.py --smoke           tiny, on a CPU too

For when run.py misses a goal. (profile.py would hide Python's own module of that name.)
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from cases import CASES
from device_time import trace
from engine_run import add_all, make_llm, start_decodes, warm_up
from loading import run_loading
from machine import about
from operations import draws, products, rows
from phases import WITHIN_LAUNCH, phases
from workload import Workload

from stoker import LLM

MODELS = ("qwen3-0.6b", "qwen3-8b")
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no overlap": {"overlap": False},
    "no graphs": {"cuda_graphs": False},
    "neither": {"overlap": False, "cuda_graphs": False},
}
TOP = 15  # kernels


def steps(device: torch.device, smoke: bool) -> dict[str, Any]:
    """Decode and mixed steps, with overlap and graphs or without."""
    found = {}
    for name in MODELS:
        case, ways = CASES[name], WAYS if not smoke else dict(list(WAYS.items())[:2])
        for way, changes in ways.items():
            with make_llm(case, device, smoke, **changes) as llm:
                if not smoke:
                    warm_up(llm)
                count = 2 if smoke else 10
                work = case.tiny() if smoke else case.work()
                for kind in ("decode", "mixed"):
                    if kind == "decode":
                        start_decodes(llm, work, 4 * count)
                    else:
                        start_prompts(llm, work)
                    label = f"{name}, {kind}, {way}"
                    found[label] = _some_steps(llm, count, device)
                    show(label, found[label])
    return found


def start_prompts(llm: LLM, work: Workload) -> None:
    """A quarter of the way through the prompts, with decodes beside chunks."""
    add_all(llm, work)
    for _ in range(work.input_tokens // llm.engine.scheduler.max_batch_tokens // 4):
        llm.engine.step()


def _some_steps(llm: LLM, count: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds a step: clock, device, gaps between kernels, phases, and the top kernels."""
    engine = llm.engine

    def some() -> None:
        for _ in range(count):
            if engine.has_work:
                engine.step()

    before = vars(engine.stats).copy()
    start = time.perf_counter()
    some()
    wall = (time.perf_counter() - start) / count
    tokens = engine.stats.computed_tokens - before["computed_tokens"]
    with phases(engine) as spent:
        some()
    seen = trace(some, device)
    engine.abort_all()
    each = 1e3 / count
    within = {name: spent.pop(name, 0.0) * each for name in WITHIN_LAUNCH}
    return {
        "tokens_per_step": tokens / count,
        "wall_ms": wall * 1e3,
        "device_ms": seen.busy * each,
        "gaps_ms_profiled": (seen.span - seen.busy) * each,
        "host_ms": {name: seconds * each for name, seconds in spent.items()},
        "within_launch_ms": within,
        "kernels": [(name, calls / count, s * each) for name, calls, s in seen.top(TOP)],
    }


def show(label: str, row: Any) -> None:
    """Print a result; nested parts get a line each."""
    print(f"\n{label}")
    for key, value in row.items():
        print(f"  {key}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list):
        lines = (f"\n    {ms:8.3f} ms {calls:6.1f} x {name[:90]}" for name, calls, ms in value)
        return "".join(lines)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parts = {
        "draws": draws,
        "rows": rows,
        "products": products,
        "steps": steps,
        "loading": lambda device, smoke: run_loading(device, smoke, 120),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.smoke:
        parser.error("torch sees no GPU; --smoke runs tiny shapes anywhere")
    result: dict[str, Any] = {"about": about()}
    for name in args.only:
        try:
            result[name] = parts[name](device, args.smoke)
        except Exception as problem:  # the other parts are worth having
            traceback.print_exc()
            result[name] = {"failed": str(problem)}
        if name != "steps":
            show(name, result[name])
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
