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
import torch


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
    """Call before the first launch: repairs three faults of the interpreter of Triton 3.6.

    Loop bounds that were loaded or computed are arrays of one element, which NumPy 2.4 does not
    take for an index. Products of bfloat16, which NumPy does not have, multiplied their bits. And
    float32 was cut off, not rounded, to bfloat16 and to 8 bits.
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

    convert = interpreter._convert_float
    narrow = {
        tl.bfloat16: (torch.bfloat16, np.uint16),
        tl.float8e4nv: (torch.float8_e4m3fn, np.uint8),
    }

    def rounded(x: Any, given: Any, wanted: Any, mode: Any) -> Any:
        if given != tl.float32 or wanted not in narrow:
            return convert(x, given, wanted, mode)
        dtype, bits = narrow[wanted]
        values = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        return values.to(dtype).view(getattr(torch, np.dtype(bits).name)).numpy()

    interpreter._convert_float = rounded
    interpreter._patch_lang_tensor = mended_patch
    interpreter.InterpreterBuilder.create_dot = mended_dot
