"""What PyTorch, Triton and a GPU are here, and why a GPU can't be used."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from stoker.doctor.finding import Finding
from stoker.engine.setup.budget import gib
from stoker.engine.setup.device import find_device
from stoker.errors import ConfigError

TRIED = ((2, 11), (2, 13))  # the releases of torch that tests have passed with
ROOT = Path("/")


def examine_torch() -> Iterator[Finding]:
    """PyTorch, Triton and the GPUs."""
    yield _torch()
    yield _triton()
    yield _gpu()


def _torch() -> Finding:
    cuda = torch.version.cuda
    facts = {
        "version": torch.__version__,
        "cuda": cuda,
        "onednn": torch._C._has_mkldnn,
    }
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    oldest, newest = (".".join(map(str, one)) for one in TRIED)
    advice = ""
    if not TRIED[0] <= release <= TRIED[1]:
        advice = f"Stoker has been tried with torch {oldest} to {newest}; take one of these"
    why = f"built for CUDA {cuda}" if cuda else "built without CUDA"
    return Finding("torch", torch.__version__, why, advice, facts)


def _triton() -> Finding:
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        on_gpu = torch.version.cuda is not None
        return Finding(
            "Triton",
            "none",
            "it serves a GPU only",
            "install triton: without it a GPU takes slower paths" if on_gpu else "",
            {"version": None},
        )
    return Finding("Triton", version, "it serves a GPU only", "", {"version": version})


def _gpu(root: Path = ROOT) -> Finding:
    if not (root / "proc/driver/nvidia/version").exists():
        return Finding("GPU", "none", "there is no NVIDIA driver", "", {"gpus": []})
    try:
        find_device("cuda")
    except ConfigError as problem:
        why = str(problem).removeprefix("device 'cuda' was asked for, but ")
        return Finding("GPU", "not used", why, why, {"gpus": []})
    gpus, shown = [], []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        gpus.append({"name": name, "free_bytes": free, "total_bytes": total})
        shown.append(f"{name}, {gib(free)} free of {gib(total)}")
    return Finding("GPU", "; ".join(shown), "serves with --device cuda", "", {"gpus": gpus})
