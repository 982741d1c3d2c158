"""Formats that pack otherwise than in rows, as checkpoints have them: for the interface alone.

Each is written as its layout is described, slow and obvious, and makes no fast product.

    Gptq       qweight (K / 8, N): words of 8 inputs     scales (K / g, N)   g_idx (K,)
    Awq        qweight (K, N / 8): words of 8 outputs    scales (K / g, N)
    Fp8Blocks  weight (N, K) e4m3                        weight_scale_inv (N / 8, K / 8)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from stoker.errors import ModelError
from stoker.ops.kv_pages import FP8
from stoker.ops.linear import PlainLinear
from stoker.quant.format import PartSpec

GROUP = 16  # inputs that share a scale
BLOCK = 8  # outputs and inputs of a block that share a scale
SHIFTS = torch.arange(0, 32, 4)
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # of the outputs in the nibbles of a word


def words(nibbles):
    """(..., 8) integers from 0 to 15 -> (...) int32, the first lowest."""
    return (nibbles.long() << SHIFTS).sum(-1).to(torch.int32)


def nibbles(words):
    """(...) int32 -> (..., 8) integers from 0 to 15."""
    return (words.long()[..., None] >> SHIFTS) & 15


def quantize(weight):
    """(N, K) -> (K, N) integers from 0 to 15 and (K / GROUP, N) scales; 8 stands for 0."""
    columns = weight.t().reshape(-1, GROUP, len(weight))
    scales = columns.abs().amax(1) / 7
    return (columns / scales[:, None]).round().add(8).clamp(0, 15).flatten(0, 1), scales


class Slow:
    holds_all: ClassVar[bool] = True

    def applies_to(self, outputs, inputs):
        return outputs % 8 == 0 and inputs % GROUP == 0

    def prepare(self, parts, bias):
        return PlainLinear(self.to_dense(parts), bias)

    def prepare_gated(self, parts, bias, activation):
        return None


@dataclass(frozen=True)
class Gptq(Slow):
    def parts(self, outputs, inputs):
        return {
            "qweight": PartSpec((inputs // 8, outputs), torch.int32),
            "scales": PartSpec((inputs // GROUP, outputs), torch.float32),
            "g_idx": PartSpec((inputs,), torch.int32),
        }

    def slice_outputs(self, parts, start, stop):
        return {
            "qweight": parts["qweight"][:, start:stop],
            "scales": parts["scales"][:, start:stop],
            "g_idx": parts["g_idx"],  # that of the whole, and of each part
        }

    def from_dense(self, weight):
        integers, scales = quantize(weight)
        packed = words(integers.reshape(-1, 8, len(weight)).transpose(1, 2))
        group = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
        return {"qweight": packed, "scales": scales, "g_idx": group}

    def to_dense(self, parts):
        integers = nibbles(parts["qweight"]).transpose(1, 2).flatten(0, 1) - 8
        return (integers * parts["scales"][parts["g_idx"].long()]).t()


@dataclass(frozen=True)
class Awq(Slow):
    def parts(self, outputs, inputs):
        return {
            "qweight": PartSpec((inputs, outputs // 8), torch.int32),
            "scales": PartSpec((inputs // GROUP, outputs), torch.float32),
        }

    def slice_outputs(self, parts, start, stop):
        if start % 8 or stop % 8:
            raise ModelError(f"AWQ packs 8 outputs in a word, and can't be cut at {start}, {stop}")
        return {
            "qweight": parts["qweight"][:, start // 8 : stop // 8],
            "scales": parts["scales"][:, start:stop],
        }

    def from_dense(self, weight):
        integers, scales = quantize(weight)
        ordered = integers.reshape(len(integers), -1, 8)[..., AWQ_ORDER]
        return {"qweight": words(ordered), "scales": scales}

    def to_dense(self, parts):
        back = torch.argsort(torch.tensor(AWQ_ORDER))
        integers = nibbles(parts["qweight"])[..., back].flatten(1) - 8
        return (integers * parts["scales"].repeat_interleave(GROUP, 0)).t()


@dataclass(frozen=True)
class Fp8Blocks(Slow):
    def parts(self, outputs, inputs):
        return {
            "weight": PartSpec((outputs, inputs), FP8),
            "weight_scale_inv": PartSpec((outputs // BLOCK, inputs // BLOCK), torch.float32),
        }

    def slice_outputs(self, parts, start, stop):
        return {
            "weight": parts["weight"][start:stop],
            "weight_scale_inv": parts["weight_scale_inv"][start // BLOCK : stop // BLOCK],
        }

    def from_dense(self, weight):
        blocks = weight.reshape(len(weight) // BLOCK, BLOCK, -1, BLOCK)
        scales = blocks.abs().amax((1, 3)) / 448
        numbers = (blocks / scales[:, None, :, None]).reshape(weight.shape).to(FP8)
        return {"weight": numbers, "weight_scale_inv": scales}

    def to_dense(self, parts):
        scales = parts["weight_scale_inv"].repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        return parts["weight"].float() * scales
