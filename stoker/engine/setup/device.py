"""Finds the device an engine runs on, and says plainly why a GPU can't be had.

Knows torch's devices, nothing of models. Called when an engine is made.
"""

from __future__ import annotations

import os

import torch

from stoker.errors import ConfigError


def find_device(name: str) -> torch.device:
    """The device called `name`.

    Raises:
        ConfigError: there is no such device, or torch can't use it; says what to do.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is not known; use cpu or cuda") from None
    if device.type == "cpu":
        return torch.device("cpu")  # also for "cpu:0", which not all that is given it takes
    if device.type != "cuda":
        raise ConfigError(f"device {name!r} can't be served; use cpu or cuda")
    _start_cuda(name)
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} is not there; this machine has {count} GPU(s)")
    _check_age(device)
    return device


def _start_cuda(name: str) -> None:
    asked = f"device {name!r} was asked for, but"
    version = torch.version.cuda
    if version is None:
        raise ConfigError(
            f"{asked} this PyTorch ({torch.__version__}) is built without CUDA; install one that "
            "has it (https://pytorch.org/get-started), or use cpu"
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"{asked} {_reason(str(problem), version)}") from problem


def _reason(problem: str, version: str) -> str:
    """What torch's message means for a user; `version` is of the CUDA that torch is built for."""
    if "too old" in problem:
        return (
            f"the NVIDIA driver is too old for this PyTorch, which is built for CUDA {version}: "
            f"update the driver, or install a PyTorch for an older CUDA ({_first(problem)})"
        )
    if "no NVIDIA driver" in problem:
        return (
            "there is no NVIDIA driver (in a container: it was started without its GPUs); "
            "install one, or use cpu"
        )
    if "No CUDA GPUs" in problem:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if seen is None else f"; CUDA_VISIBLE_DEVICES is {seen!r}"
        return f"torch sees no NVIDIA GPU{hidden}; use cpu"
    return f"CUDA {version} does not start: {_first(problem)}"


def _first(problem: str) -> str:
    return problem.strip().splitlines()[0] if problem.strip() else "no reason was given"


def _check_age(device: torch.device) -> None:
    """Refuse a GPU that torch has no kernels for."""
    known = [int(one[3:]) for one in torch.cuda.get_arch_list() if one[3:].isdigit()]
    major, minor = torch.cuda.get_device_capability(device)
    if known and 10 * major + minor < min(known):
        oldest = min(known)
        raise ConfigError(
            f"the GPU has compute capability {major}.{minor}, and this PyTorch "
            f"({torch.__version__}) serves {oldest // 10}.{oldest % 10} and newer; "
            "install an older PyTorch, or use cpu"
        )
