"""Chooses the implementation of each operation, once, for a device and dtype.

Model code calls what it is given. Each choice is tested against the plain-PyTorch reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from stoker.errors import ConfigError
from stoker.ops.activation import (
    NativeActivate,
    NativeSigmoidGate,
    NativeSoftCap,
    NativeXielu,
    activate,
    sigmoid_gate,
    soft_cap,
    xielu,
)
from stoker.ops.attention import Attention, ReferenceAttention
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.attention_native import NativeAttention
from stoker.ops.attention_varlen import VarlenAttention, varlen_serves
from stoker.ops.causal_conv import CausalConv, NativeCausalConv, causal_conv
from stoker.ops.delta_rule import GatedDelta, NativeGatedDelta, gated_delta
from stoker.ops.draw import Draw, draw
from stoker.ops.draw_cpu import draw_on_cpu
from stoker.ops.gated_norm import GatedNorm, NativeGatedNorm, gated_norm
from stoker.ops.kv_pages import FP8, Pages
from stoker.ops.latent import NativeStoreLatent, StoreLatent, store_latent
from stoker.ops.native.build import load_kernels
from stoker.ops.norm import NativeLayerNorm, NativeRmsNorm, layer_norm, rms_norm
from stoker.ops.rg_lru import NativeRgLru, RgLru, rg_lru
from stoker.ops.rope import HeadNorms, NativeRotateAndStore, rotate, rotate_and_store
from stoker.ops.selective_scan import (
    NativeSelectiveScan,
    NativeSsdScan,
    SelectiveScan,
    SsdScan,
    selective_scan,
    ssd_scan,
)
from stoker.ops.step_tensors import MakeInputs, make_inputs
from stoker.ops.triton.attention import TritonAttention
from stoker.ops.triton.available import triton_serves
from stoker.ops.triton.select import fused_operations

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Operations:
    """One implementation of each operation; see the module of each for its contract."""

    attention: Attention
    rms_norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm
    layer_norm: Callable[[Tensor, Tensor, Tensor | None, float], Tensor] = layer_norm
    activate: Callable[[Tensor, str, bool], Tensor] = activate
    soft_cap: Callable[[Tensor, float], Tensor] = soft_cap
    sigmoid_gate: Callable[[Tensor, Tensor], Tensor] = sigmoid_gate
    rotate_and_store: Callable[[Tensor, HeadNorms | None, Tensor, Tensor, Pages, Pages], Tensor] = (
        rotate_and_store
    )
    rotate: Callable[[Tensor, Tensor | None, float, Tensor], Tensor] = rotate
    store_latent: StoreLatent = store_latent
    draw: Draw = draw
    make_inputs: MakeInputs = make_inputs
    causal_conv: CausalConv = causal_conv
    ssd_scan: SsdScan = ssd_scan
    selective_scan: SelectiveScan = selective_scan
    gated_norm: GatedNorm = gated_norm
    gated_delta: GatedDelta = gated_delta
    rg_lru: RgLru = rg_lru
    xielu: Callable[[Tensor, float, float], Tensor] = xielu


BACKENDS: dict[type, str] = {  # as `EngineOptions.attention_backend` names them
    NativeAttention: "native",
    CpuAttention: "torch",
    TritonAttention: "triton",
    VarlenAttention: "varlen",
    ReferenceAttention: "reference",
}


def select_operations(
    device: torch.device,
    dtype: torch.dtype,
    *,
    backend: str = "auto",
    cache_dtype: torch.dtype | None = None,
    special_scores: bool = False,
    keeps_state: bool = False,
) -> Operations:
    """The fastest operations for `device` and `dtype`.

    Args:
        backend: the implementation of attention (`EngineOptions.attention_backend`).
        cache_dtype: of keys and values, if it is not `dtype`.
        special_scores: whether a layer caps its scores, chunks them, or has slopes, or has keys and
            values of different width.
        keeps_state: whether a layer keeps a state of each sequence.

    Raises:
        ConfigError: `backend` does not serve here; the message names those that do.
    """
    attention = _attention(device, dtype, backend, cache_dtype == FP8, special_scores)
    if device.type != "cpu" or backend == "triton":
        return Operations(attention, **fused_operations(device.type))
    states = _with_states(dtype) if keeps_state else {}
    elementwise = load_kernels("elementwise") if dtype == torch.float32 else None
    if elementwise is None:
        return Operations(attention, draw=draw_on_cpu, **states)
    rotation = NativeRotateAndStore(elementwise)
    return Operations(
        attention,
        NativeRmsNorm(elementwise),
        NativeLayerNorm(elementwise),
        NativeActivate(elementwise),
        NativeSoftCap(elementwise),
        NativeSigmoidGate(elementwise),
        rotation,
        rotation.rotate,
        NativeStoreLatent(elementwise),
        draw_on_cpu,
        xielu=NativeXielu(elementwise),
        **states,
    )


class _StateOperations(TypedDict, total=False):
    """Fields of `Operations`; those that are missing keep their references."""

    causal_conv: CausalConv
    ssd_scan: SsdScan
    selective_scan: SelectiveScan
    gated_norm: GatedNorm
    gated_delta: GatedDelta
    rg_lru: RgLru


def _with_states(dtype: torch.dtype) -> _StateOperations:
    """What a CPU has for layers that keep states; scans compute in float32 anyhow."""
    library, delta_rule = load_kernels("state_space"), load_kernels("delta_rule")
    if library is None or delta_rule is None:
        return {}
    scans: _StateOperations = {
        "gated_delta": NativeGatedDelta(delta_rule),
        "rg_lru": NativeRgLru(library),
        "ssd_scan": NativeSsdScan(library),
        "selective_scan": NativeSelectiveScan(library),
    }
    if dtype != torch.float32:
        return scans
    return {
        **scans,
        "causal_conv": NativeCausalConv(library),
        "gated_norm": NativeGatedNorm(library),
    }


def _attention(
    device: torch.device, dtype: torch.dtype, backend: str, fp8: bool, special_scores: bool
) -> Attention:
    """The implementation called `backend`, or the fastest."""
    cpu = device.type == "cpu"
    native = load_kernels("attention") if cpu and dtype == torch.float32 and not fp8 else None
    choices: dict[str, Callable[[], Attention]] = {}  # the fastest first
    if native is not None:
        choices["native"] = lambda: NativeAttention(native)
    if cpu and not fp8:
        choices["torch"] = CpuAttention
    if not cpu and triton_serves(device.type):
        choices["triton"] = lambda: TritonAttention(device)
    if not fp8 and not special_scores and varlen_serves(device, dtype):
        choices["varlen"] = VarlenAttention
    choices["reference"] = ReferenceAttention
    if cpu and triton_serves("cpu"):  # interpreted: the slowest
        choices["triton"] = lambda: TritonAttention(device)
    name = next(iter(choices)) if backend == "auto" else backend
    if name not in choices:
        raise ConfigError(
            f"attention_backend {name!r} does not serve {str(dtype).removeprefix('torch.')} on "
            f"{device}{' with keys and values in FP8' if fp8 else ''} here; "
            f"use auto or one of: {', '.join(choices)}"
        )
    if name == "reference" and backend == "auto":
        log.warning("attention takes the slow reference: %s", _why(cpu))
    return choices[name]()


def _why(cpu: bool) -> str:
    return (
        "on a CPU, keys and values in FP8 save memory and no time"
        if cpu
        else "Triton is not installed"
    )
