"""Kill a job in its midst and continue it: the results are those of a run that was never broken.

python examples/resume.py
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASKS = Path(__file__).with_name("tasks.jsonl")
ROWS = 300


def command(output: Path) -> list[str]:
    """`stoker run examples/tasks.jsonl -o OUTPUT ...`"""
    stoker = [sys.executable, "-m", "stoker.cli.main"]
    more = ["--limit", str(ROWS), "--ordered", "--quiet", "--no-report"]
    return [*stoker, "run", str(TASKS), "-o", str(output), *more]


def lines(path: Path) -> int:
    """Lines written so far."""
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        broken, whole = Path(folder) / "broken.jsonl", Path(folder) / "whole.jsonl"
        job = subprocess.Popen(command(broken))
        while job.poll() is None and lines(broken) < 40:
            time.sleep(0.01)
        job.kill()  # as the kernel does when memory runs out: nothing is told to the job
        job.wait()
        print(f"killed with {lines(broken)} rows written")
        subprocess.run(command(broken), check=True)  # the same command continues
        subprocess.run(command(whole), check=True)
        rows = [json.loads(line)["result"]["row"] for line in broken.read_bytes().splitlines()]
        assert rows == list(range(1, ROWS + 1)), "a row is missing, or there twice"
        assert broken.read_bytes() == whole.read_bytes(), "the results differ"
        print(f"{len(rows)} rows in the end, equal to those of a run that was not broken")


if __name__ == "__main__":
    main()
