"""The operations beside attention that Triton serves, for ops/select.py.

Nothing here imports Triton before it is asked for a kernel. Linear maps are not among them: cuBLAS
is at the limit, and adds the residual to what it writes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TypedDict

from torch import Tensor

from stoker.ops.causal_conv import CausalConv
from stoker.ops.delta_rule import GatedDelta
from stoker.ops.draw import Draw
from stoker.ops.gated_norm import GatedNorm
from stoker.ops.kv_pages import Pages
from stoker.ops.latent import StoreLatent
from stoker.ops.rg_lru import RgLru
from stoker.ops.rope import HeadNorms
from stoker.ops.selective_scan import SelectiveScan, SsdScan
from stoker.ops.step_tensors import MakeInputs
from stoker.ops.triton.available import triton_serves

log = logging.getLogger(__name__)


class Fused(TypedDict, total=False):
    """Fields of `Operations`; those that are missing keep their references."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    layer_norm: Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
    activate: Callable[[Tensor, str, bool], Tensor]
    soft_cap: Callable[[Tensor, float], Tensor]
    rotate_and_store: Callable[[Tensor, HeadNorms | None, Tensor, Tensor, Pages, Pages], Tensor]
    store_latent: StoreLatent
    rotate: Callable[[Tensor, Tensor | None, float, Tensor], Tensor]
    draw: Draw
    make_inputs: MakeInputs
    causal_conv: CausalConv
    ssd_scan: SsdScan
    selective_scan: SelectiveScan
    gated_norm: GatedNorm
    gated_delta: GatedDelta
    rg_lru: RgLru


@functools.cache  # and so the warning comes once
def fused_operations(device_type: str) -> Fused:
    """The kernels for a type of device ("cuda", or "cpu" under the interpreter), if any."""
    if not triton_serves(device_type):
        log.warning("Triton is not installed: norms, activations and draws take slower paths")
        return {}
    from stoker.ops.triton import (
        activation,
        delta_rule,
        draw,
        latent,
        norm,
        rope,
        state_space,
        step_tensors,
    )

    return {
        "rms_norm": norm.rms_norm,
        "layer_norm": norm.layer_norm,
        "activate": activation.activate,
        "soft_cap": activation.soft_cap,
        "rotate_and_store": rope.rotate_and_store,
        "store_latent": latent.store_latent,
        "rotate": rope.rotate,
        "draw": draw.draw,
        "make_inputs": step_tensors.make_inputs,
        "causal_conv": state_space.causal_conv,
        "ssd_scan": state_space.ssd_scan,
        "selective_scan": state_space.selective_scan,
        "gated_norm": state_space.gated_norm,
        "gated_delta": delta_rule.gated_delta,
        "rg_lru": delta_rule.rg_lru,
    }
