"""Which implementation of a layer of experts serves its weights: chosen once, at load."""

from __future__ import annotations

import torch

from stoker.ops.experts import ExpertsFn, ExpertWeights, ReferenceExperts
from stoker.ops.experts_grouped import GroupedExperts, grouped_serves
from stoker.ops.experts_int8 import Int8ReferenceExperts, NativeInt8Experts
from stoker.ops.experts_native import NativeExperts
from stoker.ops.native.build import load_kernels
from stoker.ops.triton.available import triton_serves


def prepare_experts(weights: ExpertWeights) -> ExpertsFn:
    """A function that computes `run_experts` with floating-point weights.

    On a CPU, where these are float32 or, for arithmetic in float32, bfloat16, it keeps its own
    copy of them.
    """
    device = weights.up.device.type
    if device != "cpu" and triton_serves(device):
        from stoker.ops.triton.experts import TritonExperts

        return TritonExperts(weights)
    if device == "cpu" and weights.up.dtype == torch.float32 and load_kernels("experts"):
        return NativeExperts(weights)
    if device == "cpu" and grouped_serves(weights):
        return GroupedExperts(weights)
    return ReferenceExperts(weights)


def prepare_int8_experts(weights: ExpertWeights) -> ExpertsFn:
    """A function that computes `Int8ReferenceExperts(weights)`, on a CPU."""
    if load_kernels("experts_int8") is not None:
        return NativeInt8Experts(weights)
    return Int8ReferenceExperts(weights)
