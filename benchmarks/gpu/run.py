"""All workloads of the GPU benchmarks in one command, with bounds and goals, into one JSON file.

    python benchmarks/gpu/run.py                        all, in less than ten minutes
    python benchmarks/gpu/run.py --only qwen3-14b ...   some
    python benchmarks/gpu/run.py --smoke                tiny models, on a CPU too

What matters most comes first. Each runs in a process of its own with a time limit: one that fails
is recorded and the others go on; those that the time does not reach are named. The file is
written after each of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from cases import CASES
from report import heading, shown, with_bounds

RESULTS = Path(__file__).parents[1] / "results"
BESIDE = {"kernels": 60, "peer": 90, "loading": 100}  # what is no case, and its seconds
START = 75  # seconds to start a process, make an engine and warm it up
LEAST = 30  # seconds with which it makes sense to begin
FIRST = 8  # cases that come before the peer
ORDER = ["kernels", *list(CASES)[:FIRST], "peer", "loading", *list(CASES)[FIRST:]]


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; the exit status says whether something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ORDER, metavar="NAME", default=ORDER)
    parser.add_argument("--minutes", type=float, default=9.5, help="for all together")
    parser.add_argument("--smoke", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--json", type=Path, help="the file (benchmarks/results/DATE-gpu.json)")
    parser.add_argument("--alone", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.alone:
        alone(args.alone, args.smoke, args.minutes * 60, args.json)
        return 0
    end = time.monotonic() + args.minutes * 60
    path = args.json or RESULTS / time.strftime("%Y-%m-%d-gpu.json")
    if args.smoke and not args.json:
        path = Path(tempfile.gettempdir()) / "gpu-smoke.json"  # no figures to keep
    with tempfile.TemporaryDirectory() as folder:
        passed = {"smoke": args.smoke, "folder": Path(folder)}
        result: dict[str, Any] = {"about": child("about", 120, **passed), "smoke": args.smoke}
        if not args.smoke and result["about"].get("gpu") is None:
            parser.error("torch sees no GPU; --smoke runs tiny models anywhere")
        print(heading(), flush=True)
        for name in (one for one in ORDER if one in args.only):
            left = end - time.monotonic()
            if left < LEAST:
                found: dict[str, Any] = {"skipped": f"{left:.0f} s were left of {args.minutes} min"}
            else:
                limit = BESIDE[name] if name in BESIDE else CASES[name].limit + START
                found = child(name, min(limit, left), **passed)
            if name in CASES and not {"failed", "skipped"} & found.keys():
                found = with_bounds(name, found, args.smoke)
            result[name] = found
            print(shown(name, found), flush=True)
            if "incomplete" in found:
                print(f"{'':20} incomplete: {found['incomplete']}", flush=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
    return int(any("failed" in one for one in result.values() if isinstance(one, dict)))


def child(name: str, limit: float, smoke: bool, folder: Path) -> dict[str, Any]:
    """The result of `name`, run in a process of its own for at most `limit` seconds.

    A failure is {"failed": its last line, "tail": the end of what it said}; where there are
    figures by then, they are given, and the failure is "incomplete".
    """
    out = folder / f"{name}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--alone", name, "--json", str(out)]
    command += [f"--minutes={limit / 60}", *(["--smoke"] if smoke else [])]
    failed = ""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with what it has started
        said = process.communicate()[0]
        failed = f"stopped after {limit:.0f} s"
    tail = said.strip().splitlines()[-30:]
    if process.returncode:
        failed = failed or (tail[-1] if tail else f"it ended with status {process.returncode}")
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if found:
        return found | ({"incomplete": failed, "tail": tail} if failed else {})
    return {"failed": failed or "it wrote nothing", "tail": tail}


def alone(name: str, smoke: bool, limit: float, out: Path) -> None:
    """Measure `name` in this process, and write what was found to `out`."""
    import torch
    from engine_run import run_case
    from kernels import run_kernels
    from loading import run_loading
    from machine import about
    from peer import run_peer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "about":
        found = about()
    elif name in CASES:
        most = min(CASES[name].limit, max(limit - START, limit / 4))
        found = run_case(CASES[name], device, smoke, most, partial(save, out))
    else:
        runs = {"kernels": run_kernels, "peer": run_peer, "loading": run_loading}
        found = runs[name](device, smoke, limit)
    save(out, found)


def save(out: Path, found: dict[str, Any]) -> None:
    """Write all of it or nothing: the process may be stopped at any moment."""
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.replace(out)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
