"""Two checkouts of Stoker side by side: did a change make anything slower?

Both run the same benchmarks in turn, so that the machine's drift touches them alike, and each
figure is the median of the rounds. The ratio is that of the pairs: above 1 the second is faster.

    python benchmarks/versions.py BEFORE AFTER [--rounds 5] [--json FILE] [--only NAME ...]

BEFORE and AFTER are checkouts with this interpreter's packages. Workloads of peers.py run in one
process per checkout that stays loaded; the other scripts run as processes of their own, and the
figures are read from what they print.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import Worker
from workloads import WORK, about, make_model, outputs_of

SCRIPTS: dict[
    str, tuple[list[str], str, bool]
] = {  # command, pattern of the figure, lower is better
    "scheduler": (["scheduler.py"], r"median .* ([\d.]+) us per sequence", True),
    "scheduler overlap": (["scheduler.py", "--overlap"], r"median .* ([\d.]+) us per seq", True),
    "jobs": (["jobs.py"], r": (\d+) rows/s", False),
    "cold start": (["cold_start.py", "--rounds", "1"], r"first token after ([\d.]+) s", True),
    "grammar schema": (
        ["grammar.py", "--repeats", "3"],
        r"json_schema .*constrained +([\d.]+) tokens/s",
        False,
    ),
    "grammar free": (["grammar.py", "--repeats", "3"], r"json_schema .*free +([\d.]+)", False),
    "sampling": (["sampling.py"], r"top_p.* ([\d.]+) ms", True),
}


def run_script(checkout: Path, name: str) -> float:
    """The figure that one run of a script prints."""
    command, pattern, _ = SCRIPTS[name]
    done = subprocess.run(
        [sys.executable, str(checkout / "benchmarks" / command[0]), *command[1:]],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(pattern, done.stdout + done.stderr)
    if found is None:
        raise SystemExit(f"{name} in {checkout} printed no figure:\n{done.stdout}{done.stderr}")
    return float(found[1].replace(",", ""))


def run_work(checkouts: list[Path], work: str, engine: str, rounds: int) -> list[list[float]]:
    """Output tokens per second of each checkout, by round."""
    load = WORK[work].make()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as closing:
        make_model(Path(name), WORK[work].shape)
        workers = []
        for checkout in checkouts:
            threads = os.cpu_count() or 1
            worker = Worker(engine, sys.executable, Path(name), threads, work, checkout)
            closing.callback(worker.close)
            if worker.error:
                raise SystemExit(f"{work} in {checkout}: {worker.error}")
            workers.append(worker)
        pairs = []
        for number in range(rounds):
            order = workers if number % 2 == 0 else workers[::-1]
            seconds = {id(worker): worker.ask("run")["seconds"] for worker in order}
            pairs.append([outputs_of(load) / seconds[id(worker)] for worker in workers])
    return [*map(list, zip(*pairs, strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    names = ["17m", "107m", "prefix", "17m int8", *SCRIPTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    checkouts = [args.before.resolve(), args.after.resolve()]
    results = {}
    for name in args.only:
        if name in SCRIPTS:
            lower = SCRIPTS[name][2]
            rates: list[list[float]] = [[], []]
            for number in range(args.rounds):
                for at in (0, 1) if number % 2 == 0 else (1, 0):
                    rates[at].append(run_script(checkouts[at], name))
        else:
            work, _, kind = name.partition(" ")
            rates, lower = (
                run_work(checkouts, work, f"stoker-{kind}" if kind else "stoker", args.rounds),
                False,
            )
        before, after = map(statistics.median, rates)
        ratio = statistics.median(b / a for a, b in zip(*rates, strict=True))
        ratio = 1 / ratio if lower else ratio
        results[name] = {"before": before, "after": after, "speed": ratio, "rounds": rates}
        print(
            f"{name:18} before {before:10.2f}  after {after:10.2f}  speed {ratio:6.3f}", flush=True
        )
    if args.json:
        about_both = {"rounds": args.rounds, **about("torch", "transformers")}
        args.json.write_text(json.dumps({**about_both, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
