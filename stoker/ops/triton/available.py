"""Says whether Triton is there, and whether its kernels run interpreted on a CPU.

Triton arrives with torch for CUDA and is never needed: nothing in this folder imports it before
it has been asked for. With TRITON_INTERPRET=1, set before Triton is imported, kernels are
interpreted by NumPy: slow, and good for tests.
"""

from __future__ import annotations

import importlib.util
import os


def interpreted() -> bool:
    """Whether kernels are interpreted, on tensors of a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_serves(device_type: str) -> bool:
    """Whether Triton is installed and its kernels run on this type of device ("cpu", "cuda")."""
    if importlib.util.find_spec("triton") is None:
        return False
    return device_type == "cuda" or (device_type == "cpu" and interpreted())
