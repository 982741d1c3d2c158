# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""Causal convolutions, Mamba's scans and the gated norm; states are read and written in place.

References and contracts are in ops/causal_conv.py, ops/selective_scan.py and ops/gated_norm.py. A
scan goes through a sequence's tokens one after the other with its tile of the state in registers:
a decode moves each state once, and a chunk too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.gated_norm import GateNorm
from stoker.ops.selective_scan import ScanWeights, SelectiveInputs
from stoker.ops.state_plan import StatePlan

_TOKENS = 32  # that a program convolves, at least as many as there are taps
_TILE = 4096  # numbers of a state that a program keeps in registers


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    size = tl.where(x < 0, -x, x)
    small = tl.exp(-size)
    # log(1 + u) of a small u, which 1 + u would round away
    whole = 1.0 + small
    log = tl.where(whole == 1.0, small, tl.log(whole) * (small / (whole - 1.0)))
    return tl.where(x < 0, 0.0, x) + log


@triton.jit
def _times(x, y):
    """The product, rounded to the dtype of x."""
    return (x.to(tl.float32) * y.to(tl.float32)).to(x.dtype)


@triton.jit
def _conv_kernel(
    x,
    before,
    after,
    weight,
    bias,
    states,
    slots,
    starts,
    fresh,
    out,
    channels,
    stride,
    TAPS: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Some tokens of a sequence at some channels; the program of the first ones keeps the last."""
    sequence = tl.program_id(0)
    start = tl.load(starts + sequence)
    count = tl.load(starts + sequence + 1) - start
    first = tl.program_id(1) * BLOCK_T
    if first < count:
        channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = channel < channels
        kept = states + tl.load(slots + sequence) * (TAPS - 1) * channels + channel
        old = tl.load(fresh + sequence) == 0
        place = first + tl.arange(0, BLOCK_T)
        wanted = (place < count)[:, None] & inside[None, :]
        sums = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        if BIAS:
            sums += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
        for k in tl.static_range(TAPS):
            source = place - (TAPS - 1) + k
            own = (source >= 0)[:, None] & wanted
            at = (start + source)[:, None] * stride + channel[None, :]
            value = tl.load(x + at, mask=own, other=0.0)
            if GATED:
                value = _times(value, tl.load(before + at, mask=own, other=0.0))
            earlier = (source < 0)[:, None] & wanted & old
            row = (source + TAPS - 1)[:, None] * channels
            value = tl.where(own, value, tl.load(kept[None, :] + row, mask=earlier, other=0.0))
            taken = tl.load(weight + k * channels + channel, mask=inside, other=0.0)
            sums += taken.to(tl.float32)[None, :] * value.to(tl.float32)
        if SILU:
            sums = _silu(sums)
        result = sums.to(out.dtype.element_ty)
        token = (start + place)[:, None]
        if GATED:
            gate = tl.load(after + token * stride + channel[None, :], mask=wanted, other=0.0)
            result = _times(gate, result)
        tl.store(out + token * channels + channel[None, :], result, mask=wanted)
        if first == 0:
            tl.debug_barrier()  # all have read what is now written
            for k in tl.static_range(TAPS - 1):
                last = count - (TAPS - 1) + k
                in_step = inside & (last >= 0)
                taken_from = (start + last) * stride + channel
                u = tl.load(x + taken_from, mask=in_step, other=0.0)
                if GATED:
                    u = _times(u, tl.load(before + taken_from, mask=in_step, other=0.0))
                in_state = inside & (last < 0) & old
                shifted = tl.load(kept + (last + TAPS - 1) * channels, mask=in_state, other=0.0)
                u = tl.where(in_step, u, shifted.to(u.dtype))
                tl.store(kept + k * channels, u.to(states.dtype.element_ty), mask=inside)


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    states: Tensor,
    plan: StatePlan,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """As `stoker.ops.causal_conv.causal_conv`."""
    assert (before is None) == (after is None)
    assert all(one is None or one.stride() == x.stride() for one in (before, after))
    assert x.stride(1) == 1
    tokens, channels = x.shape
    out = torch.empty(tokens, channels, dtype=x.dtype, device=x.device)
    sequences, most = len(plan.slots), plan.most
    if not tokens:
        return out
    block_t = 16 if most <= 16 else _TOKENS
    block_c = 128 if most <= 16 else 64
    grid = (sequences, triton.cdiv(most, block_t), triton.cdiv(channels, block_c))
    _conv_kernel[grid](
        *(x, x if before is None else before, x if after is None else after, weight),
        *(weight if bias is None else bias, states, plan.slots, plan.starts),
        *(plan.fresh.view(torch.uint8), out, channels, x.stride(0)),
        TAPS=len(weight),
        GATED=before is not None,
        BIAS=bias is not None,
        SILU=silu,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
    )
    return out


@triton.jit
def _ssd_kernel(
    xbc,
    steps,
    dt_bias,
    rates,
    skips,
    states,
    slots,
    starts,
    fresh,
    out,
    row_stride,
    step_stride,
    least,
    most,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """A sequence at a head and some of its numbers."""
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    if start < end:
        p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
        n = tl.arange(0, BLOCK_N)
        in_p, in_n = p < DIM, n < SIZE
        inside = in_n[:, None] & in_p[None, :]
        place = (tl.load(slots + sequence) * HEADS + head) * SIZE * DIM
        tile = states + place + n[:, None] * DIM + p[None, :]
        state = tl.load(tile, mask=inside & (tl.load(fresh + sequence) == 0), other=0.0)
        bias = tl.load(dt_bias + head)
        rate = tl.load(rates + head)
        skip = tl.load(skips + head)
        group = head * GROUPS // HEADS
        for token in range(start, end):
            row = xbc + token * row_stride
            x = tl.load(row + head * DIM + p, mask=in_p, other=0.0).to(tl.float32)
            shared = row + HEADS * DIM + group * SIZE + n
            b = tl.load(shared, mask=in_n, other=0.0).to(tl.float32)
            c = tl.load(shared + GROUPS * SIZE, mask=in_n, other=0.0).to(tl.float32)
            dt = softplus(tl.load(steps + token * step_stride + head).to(tl.float32) + bias)
            dt = tl.minimum(tl.maximum(dt, least), most)
            state = state * tl.exp(dt * rate) + b[:, None] * (dt * x)[None, :]
            y = tl.sum(state * c[:, None], 0) + skip * x
            at = out + (token * HEADS + head) * DIM + p
            tl.store(at, y.to(out.dtype.element_ty), mask=in_p)
        tl.store(tile, state, mask=inside)


def ssd_scan(
    xbc: Tensor,
    steps: Tensor,
    weights: ScanWeights,
    groups: int,
    limit: tuple[float, float],
    states: Tensor,
    plan: StatePlan,
) -> Tensor:
    """As `stoker.ops.selective_scan.ssd_scan`."""
    heads, size, dim = states.shape[1:]
    assert xbc.is_contiguous()
    assert steps.stride(1) == 1
    out = torch.empty(len(xbc), heads * dim, dtype=xbc.dtype, device=xbc.device)
    if not len(xbc):
        return out
    block_n = triton.next_power_of_2(size)
    block_p = min(triton.next_power_of_2(dim), max(16, _TILE // block_n))
    _ssd_kernel[(len(plan.slots), heads, triton.cdiv(dim, block_p))](
        *(xbc, steps, *weights, states, plan.slots, plan.starts),
        *(plan.fresh.view(torch.uint8), out, xbc.stride(0), steps.stride(0), *limit),
        HEADS=heads,
        DIM=dim,
        GROUPS=groups,
        SIZE=size,
        BLOCK_N=block_n,
        BLOCK_P=block_p,
    )
    return out


@triton.jit
def _selective_kernel(
    x,
    steps,
    b,
    c,
    z,
    dt_bias,
    rates,
    skips,
    states,
    slots,
    starts,
    fresh,
    out,
    channels,
    bc_stride,
    group_stride,
    z_stride,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A sequence at some channels of a group."""
    sequence = tl.program_id(0)
    group = tl.program_id(1)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    if start < end:
        each = channels // GROUPS
        within = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
        channel = group * each + within
        n = tl.arange(0, BLOCK_N)
        in_c, in_n = within < each, n < SIZE
        inside = in_n[:, None] & in_c[None, :]
        tile = n[:, None] * channels + channel[None, :]
        own = states + tl.load(slots + sequence) * SIZE * channels + tile
        state = tl.load(own, mask=inside & (tl.load(fresh + sequence) == 0), other=0.0)
        rate = tl.load(rates + tile, mask=inside, other=0.0)
        bias = tl.load(dt_bias + channel, mask=in_c, other=0.0)
        skip = tl.load(skips + channel, mask=in_c, other=0.0)
        for token in range(start, end):
            at = token * channels + channel
            value = tl.load(x + at, mask=in_c, other=0.0).to(tl.float32)
            dt = softplus(tl.load(steps + at, mask=in_c, other=0.0).to(tl.float32) + bias)
            shared = token * bc_stride + group * group_stride + n
            own_b = tl.load(b + shared, mask=in_n, other=0.0).to(tl.float32)
            own_c = tl.load(c + shared, mask=in_n, other=0.0).to(tl.float32)
            more = own_b[:, None] * (dt * value)[None, :]
            state = state * tl.exp(dt[None, :] * rate) + more
            y = tl.sum(state * own_c[:, None], 0) + skip * value
            gate = tl.load(z + token * z_stride + channel, mask=in_c, other=0.0).to(tl.float32)
            tl.store(out + at, (y * _silu(gate)).to(out.dtype.element_ty), mask=in_c)
        tl.store(own, state, mask=inside)


def selective_scan(
    inputs: SelectiveInputs, weights: ScanWeights, states: Tensor, plan: StatePlan
) -> Tensor:
    """As `stoker.ops.selective_scan.selective_scan`."""
    x, steps, b, c, z = inputs
    assert x.is_contiguous()
    assert steps.is_contiguous()
    assert b.stride() == c.stride()
    assert b.stride(2) == z.stride(1) == 1
    out = torch.empty_like(x)
    if not len(x):
        return out
    (groups, size), channels = b.shape[1:], x.shape[1]
    block_n = triton.next_power_of_2(size)
    block_c = min(triton.next_power_of_2(channels // groups), max(16, _TILE // 4 // block_n))
    _selective_kernel[(len(plan.slots), groups, triton.cdiv(channels // groups, block_c))](
        *(*inputs, *weights, states, plan.slots, plan.starts),
        *(plan.fresh.view(torch.uint8), out, channels, b.stride(0), b.stride(1), z.stride(0)),
        GROUPS=groups,
        SIZE=size,
        BLOCK_N=block_n,
        BLOCK_C=block_c,
    )
    return out


@triton.jit
def _norm_kernel(
    x,
    z,
    weight,
    out,
    z_stride,
    eps,
    GROUPS: tl.constexpr,
    PART: tl.constexpr,
    NORMED: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A group of a row."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < PART
    at = tl.program_id(1) * PART + d
    y = tl.load(x + row * (GROUPS * PART) + at, mask=inside, other=0.0).to(tl.float32)
    gate = _silu(tl.load(z + row * z_stride + at, mask=inside, other=0.0).to(tl.float32))
    if not FIRST:
        y *= gate
    if NORMED:
        y *= tl.rsqrt(tl.sum(y * y, 0) / PART + eps)
        y *= tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if FIRST:
        y *= gate
    tl.store(out + row * (GROUPS * PART) + at, y.to(out.dtype.element_ty), mask=inside)


def gated_norm(x: Tensor, z: Tensor, weight: Tensor | None, norm: GateNorm) -> Tensor:
    """As `stoker.ops.gated_norm.gated_norm`."""
    assert x.is_contiguous()
    assert z.stride(1) == 1
    out = torch.empty_like(x)
    if not len(x):
        return out
    part = x.shape[1] // norm.groups
    block = triton.next_power_of_2(part)
    _norm_kernel[(len(x), norm.groups)](
        *(x, z, x if weight is None else weight, out, z.stride(0), norm.eps),
        GROUPS=norm.groups,
        PART=part,
        NORMED=weight is not None,
        FIRST=norm.first,
        BLOCK=block,
        num_warps=4 if block <= 2048 else 8,
    )
    return out
