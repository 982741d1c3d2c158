"""From the start of a process to the first output token, with the model that ships.

Two commands, each in fresh processes one after the other: `stoker generate`, timed until its
first byte of text, and the same steps in Python, which tells the stages apart. The folder of
compiled kernels is a temporary one, filled before the first measurement (warm) or emptied before
each (cold); the page cache is warm. Figures are medians.

    python benchmarks/cold_start.py [--rounds 5] [--model stoker-tiny] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock

from workloads import about

PROMPT = "Say this again: check supply bar"
STAGES = {
    "interpreter": "Python itself",
    "imports": "imports, torch above all; the compiler works beside",
    "load": "weights and cache; while kernels are built, tokenizers are imported too",
    "compiler": "waiting for the compiler",
    "tokenizer": "tokenizer and chat template, imports included",
    "first token": "prefill and text",
}


def by_command(model: str, environment: dict[str, str]) -> dict[str, float]:
    """Seconds until `stoker generate` shows its first byte."""
    command = [sys.executable, "-m", "stoker.cli.main", "generate", PROMPT, "-m", model]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        first = process.stdout.read(1)
        seconds = time.monotonic() - start
        process.stdout.read()
    assert first.strip(), "stoker generate showed nothing"
    return {"command": seconds}


def by_stages(model: str, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each stage in a process of its own, and until the first token."""
    start = time.monotonic()
    command = [sys.executable, __file__, "--stages", str(start), "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def stages(model: str, start: float) -> dict[str, float]:
    """What `stoker generate` does, with the clock read in between."""
    marks = {"interpreter": time.monotonic() - start, "compiler": 0.0}
    at = time.monotonic()
    from stoker.ops.native import build

    build.start_build("cpu", "auto", "auto")
    from stoker import LLM, SamplingParams

    marks["imports"] = time.monotonic() - at
    result = Future.result

    def waited(future: Future[Any]) -> Any:
        since = time.monotonic()
        found = result(future)
        marks["compiler"] += time.monotonic() - since
        return found

    at = time.monotonic()
    with mock.patch.object(Future, "result", waited):
        llm = LLM(model)
    marks["load"] = time.monotonic() - at - marks["compiler"]
    at = time.monotonic()
    text, ids, _ = llm.text.encode_chat([{"role": "user", "content": PROMPT}])
    marks["tokenizer"] = time.monotonic() - at
    at = time.monotonic()
    params = SamplingParams(temperature=0, max_tokens=256)
    next(llm.stream({"prompt": text, "prompt_token_ids": ids}, params))
    marks["first token"] = time.monotonic() - at
    return {**marks, "python": time.monotonic() - start}


def measure(model: str, rounds: int, cold: bool) -> dict[str, float]:
    """Medians over `rounds` of the command and of the stages."""
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        by_command(model, environment)  # fills the page cache, and this cache
        for _ in range(rounds):
            row: dict[str, float] = {}
            for way in (by_command, by_stages):
                if cold:
                    shutil.rmtree(Path(cache) / "stoker")
                row.update(way(model, environment))
            rows.append(row)
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="stoker-tiny")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stages", type=float, metavar="START", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stages is not None:
        print(json.dumps(stages(args.model, args.stages)))
        return
    result: dict[str, Any] = {}
    for kind in ("warm", "cold"):
        found = result[kind] = measure(args.model, args.rounds, kind == "cold")
        print(
            f"kernels {kind}: stoker generate shows its first token after {found['command']:.2f} s"
        )
        for stage, what in STAGES.items():
            print(f"  {found[stage]:6.2f} s  {stage}: {what}")
        print(f"  {found['python']:6.2f} s  together")
    if args.json:
        args.json.write_text(
            json.dumps({**about("torch", "transformers"), **result}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
