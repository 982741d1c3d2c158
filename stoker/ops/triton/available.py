"""Says whether Triton is there, and whether its kernels run interpreted on a CPU.

Triton arrives with torch for CUDA and is never needed: nothing in this folder imports it before
it has been asked for. With TRITON_INTERPRET=1, set before Triton is imported, kernels are
interpreted by NumPy: slow, and good for tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from typing import Any

import numpy as np


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
    """Call before the first launch: repairs two faults of the interpreter of Triton 3.6.

    Loop bounds that were loaded or computed are arrays of one element, which NumPy 2.4 does not
    take for an index. And products of bfloat16, which NumPy does not have, multiplied their bits.
    """
    if not interpreted():
        return
    tl: Any = importlib.import_module("triton.language")
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    patch, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def mended_patch(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        values = (x.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(values, tl.float32)

    def mended_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    interpreter._patch_lang_tensor = mended_patch
    interpreter.InterpreterBuilder.create_dot = mended_dot
