"""Says whether Triton is there, and whether its kernels run interpreted on a CPU.

Triton arrives with torch for CUDA and is never needed: nothing in this folder imports it before
it has been asked for. With TRITON_INTERPRET=1, set before Triton is imported, kernels are
interpreted by NumPy: slow, and good for tests.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any


def interpreted() -> bool:
    """Whether kernels are interpreted, on tensors of a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_serves(device_type: str) -> bool:
    """Whether Triton is installed and its kernels run on this type of device ("cpu", "cuda")."""
    if importlib.util.find_spec("triton") is None:
        return False
    return device_type == "cuda" or (device_type == "cpu" and interpreted())


@cache
def mend_interpreter() -> None:
    """Let interpreted loops have bounds that were loaded or computed; call before a launch.

    Triton 3.6 turns arrays of one element into indices by `int`, which NumPy 2.4 refuses.
    """
    if not interpreted():
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def mended(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = mended
