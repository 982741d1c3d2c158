"""Repairs faults of Triton 3.6's interpreter, by which kernels run in tests on a CPU.

Loop bounds that were loaded or computed are arrays of one element, which NumPy 2.4 does not take
for an index. Products of bfloat16, which NumPy does not have, multiplied their bits. And float32
was cut off, not rounded, to bfloat16 and to 8 bits.
"""

import importlib

import numpy as np
import torch


def mend():
    """Repair the interpreter; call once, before the first launch."""
    tl = importlib.import_module("triton.language")
    interpreter = importlib.import_module("triton.runtime.interpreter")
    patch, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def mended_patch(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def widened(x):
        if x.dtype.scalar != tl.bfloat16:
            return x
        values = (x.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(values, tl.float32)

    def mended_dot(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    convert = interpreter._convert_float
    narrow = {
        tl.bfloat16: (torch.bfloat16, np.uint16),
        tl.float8e4nv: (torch.float8_e4m3fn, np.uint8),
    }

    def rounded(x, given, wanted, mode):
        if given != tl.float32 or wanted not in narrow:
            return convert(x, given, wanted, mode)
        dtype, bits = narrow[wanted]
        values = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        return values.to(dtype).view(getattr(torch, np.dtype(bits).name)).numpy()

    interpreter._convert_float = rounded
    interpreter._patch_lang_tensor = mended_patch
    interpreter.InterpreterBuilder.create_dot = mended_dot
