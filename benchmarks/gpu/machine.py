"""What a figure depends on beside the code: versions, the GPU, its clocks and power meanwhile."""

from __future__ import annotations

import contextlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SAMPLED = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "memory.used")
ASKED = ("name", "driver_version", "power.limit", "clocks.max.sm", "memory.total")
EVERY = 500  # milliseconds between samples


def about() -> dict[str, Any]:
    """Versions and the GPU; what can't be found out is None."""
    import torch

    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "nvidia-smi": None,
    }
    for package in ("triton", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
        line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        first = line.stdout.splitlines()[0].split(",")
        found["nvidia-smi"] = dict(zip(ASKED, map(str.strip, first), strict=True))
    return found


@contextlib.contextmanager
def sampling() -> Iterator[dict[str, Any]]:
    """A dict that holds, after the block, the least, median and most of each of `SAMPLED`.

    MHz, W, degrees Celsius and MiB of the first GPU; it stays empty without nvidia-smi.
    """
    found: dict[str, Any] = {}
    command = ["nvidia-smi", f"--query-gpu={','.join(SAMPLED)}", "-i", "0"]
    command += ["--format=csv,noheader,nounits", f"--loop-ms={EVERY}"]
    with tempfile.TemporaryFile("w+") as lines:
        try:
            smi = subprocess.Popen(command, stdout=lines, stderr=subprocess.DEVNULL)
        except OSError:
            yield found
            return
        try:
            yield found
        finally:
            smi.terminate()
            smi.wait()
            lines.seek(0)
            found |= summary(lines.read())


def summary(lines: str) -> dict[str, tuple[float, float, float]]:
    """Least, median and most of each column; lines cut short and "[N/A]" are left out."""
    columns: dict[str, list[float]] = {name: [] for name in SAMPLED}
    for line in lines.splitlines():
        values = line.split(",")
        if len(values) != len(SAMPLED):
            continue
        for name, value in zip(SAMPLED, values, strict=True):
            with contextlib.suppress(ValueError):
                columns[name].append(float(value))
    return {
        name: (min(values), statistics.median(values), max(values))
        for name, values in columns.items()
        if values
    }
