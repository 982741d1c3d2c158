# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""The gated delta rule and the recurrence of Griffin, a token after the other.

References and contracts are in ops/delta_rule.py and rg_lru.py. The columns of a delta rule's state
do not meet, so a program keeps a tile of them in registers while the tokens of its sequence go
through it; the norm over what a head gives is a kernel of its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.delta_rule import DeltaInputs, DeltaRule, DeltaWeights
from stoker.ops.state_plan import StatePlan
from stoker.ops.triton.state_space import softplus

_TILE = 4096  # numbers of a state that a program keeps


@triton.jit
def _unit(x):
    return x * tl.rsqrt(tl.sum(x * x, 0) + 1e-6)


@triton.jit
def _delta_kernel(
    qkv,
    a,
    b,
    rates,
    dt_bias,
    states,
    slots,
    starts,
    fresh,
    out,
    a_stride,
    b_stride,
    beta_most,
    bound,
    shrink,
    KEY_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BY_CHANNEL: tl.constexpr,
    BOUNDED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Grid (S * H, tiles): some columns of one head's state, of one sequence."""
    sequence, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    if start < end:
        k = tl.arange(0, BLOCK_K)
        v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
        k_in, v_in = k < KEYS, v < VALUES
        inside = k_in[:, None] & v_in[None, :]
        place = (tl.load(slots + sequence) * HEADS + head) * KEYS * VALUES
        tile = states + place + k[:, None] * VALUES + v[None, :]
        state = tl.load(tile, mask=inside & (tl.load(fresh + sequence) == 0), other=0.0)
        rate = tl.load(rates + head)
        row = 2 * KEY_HEADS * KEYS + HEADS * VALUES
        own_key = head // (HEADS // KEY_HEADS) * KEYS
        for token in range(start, end):
            from_row = qkv + token * row
            q = tl.load(from_row + own_key + k, mask=k_in, other=0.0).to(tl.float32)
            key = tl.load(from_row + KEY_HEADS * KEYS + own_key + k, mask=k_in, other=0.0)
            q, key = _unit(q) * shrink, _unit(key.to(tl.float32))
            at = from_row + 2 * KEY_HEADS * KEYS + head * VALUES + v
            value = tl.load(at, mask=v_in, other=0.0).to(tl.float32)
            if BY_CHANNEL:
                x = tl.load(a + token * a_stride + head * KEYS + k, mask=k_in, other=0.0)
                x = x.to(tl.float32) + tl.load(dt_bias + head * KEYS + k, mask=k_in, other=0.0)
            else:
                x = tl.load(a + token * a_stride + head).to(tl.float32) + tl.load(dt_bias + head)
            if BOUNDED:
                decay = tl.exp(bound / (1.0 + tl.exp(-rate * x)))
            else:
                decay = tl.exp(-rate * softplus(x))
            beta = beta_most / (1.0 + tl.exp(-tl.load(b + token * b_stride + head).to(tl.float32)))
            if BY_CHANNEL:
                state = state * decay[:, None]
            else:
                state = state * decay
            delta = (value - tl.sum(state * key[:, None], 0)) * beta
            state += key[:, None] * delta[None, :]
            y = tl.sum(state * q[:, None], 0)
            tl.store(out + (token * HEADS + head) * VALUES + v, y, mask=v_in)
        tl.store(tile, state, mask=inside)


@triton.jit
def _norm_kernel(
    y,
    gate,
    weight,
    out,
    gate_stride,
    eps,
    HEADS: tl.constexpr,
    VALUES: tl.constexpr,
    SIGMOID: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (T, H): norm(y) * weight * act(gate)."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    v = tl.arange(0, BLOCK)
    inside = v < VALUES
    at = (token * HEADS + head) * VALUES + v
    x = tl.load(y + at, mask=inside, other=0.0)
    x = x * tl.rsqrt(tl.sum(x * x, 0) / VALUES + eps) * tl.load(weight + v, mask=inside, other=0.0)
    z = tl.load(gate + token * gate_stride + head * VALUES + v, mask=inside, other=0.0)
    z = z.to(tl.float32)
    act = 1.0 / (1.0 + tl.exp(-z))
    if not SIGMOID:
        act = z * act
    tl.store(out + at, (x * act).to(out.dtype.element_ty), mask=inside)


def gated_delta(
    inputs: DeltaInputs, weights: DeltaWeights, rule: DeltaRule, states: Tensor, plan: StatePlan
) -> Tensor:
    """As `stoker.ops.delta_rule.gated_delta`."""
    qkv, a, b, gate = inputs
    assert qkv.is_contiguous()
    assert a.stride(1) == b.stride(1) == gate.stride(1) == 1
    tokens, heads, values = len(qkv), rule.heads, rule.values
    y = torch.empty(tokens, heads * values, dtype=torch.float32, device=qkv.device)
    out = torch.empty(tokens, heads * values, dtype=qkv.dtype, device=qkv.device)
    if not tokens:
        return out
    block_k = triton.next_power_of_2(rule.keys)
    block_v = min(max(16, _TILE // block_k), triton.next_power_of_2(values))
    _delta_kernel[(len(plan.slots) * heads, triton.cdiv(values, block_v))](
        *(qkv, a, b, weights.rate, weights.dt_bias, states, plan.slots, plan.starts),
        *(plan.fresh.view(torch.uint8), y, a.stride(0), b.stride(0)),
        *(rule.beta_most, rule.bound, rule.keys**-0.5),
        KEY_HEADS=rule.key_heads,
        HEADS=heads,
        KEYS=rule.keys,
        VALUES=values,
        BY_CHANNEL=rule.by_channel,
        BOUNDED=rule.bound != 0,
        BLOCK_K=block_k,
        BLOCK_V=block_v,
    )
    _norm_kernel[(tokens, heads)](
        *(y, gate, weights.norm, out, gate.stride(0), rule.eps),
        HEADS=heads,
        VALUES=values,
        SIGMOID=rule.gate == "sigmoid",
        BLOCK=triton.next_power_of_2(values),
        num_warps=1,
    )
    return out


@triton.jit
def _rg_lru_kernel(
    x,
    gates,
    rates,
    states,
    slots,
    starts,
    fresh,
    out,
    channels,
    BLOCK: tl.constexpr,
):
    """Grid (S, blocks): some channels of one sequence."""
    sequence = tl.program_id(0)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    if start < end:
        c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = c < channels
        first = tl.load(fresh + sequence) != 0
        own = states + tl.load(slots + sequence) * channels + c
        state = tl.load(own, mask=inside & (first == 0), other=0.0)
        rate = tl.load(rates + c, mask=inside, other=0.0)
        for token in range(start, end):
            gate = gates + token * 2 * channels + c
            into = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
            keep = tl.load(gate + channels, mask=inside, other=0.0).to(tl.float32)
            log_a = rate / (1.0 + tl.exp(-keep))
            room = tl.sqrt(1.0 - tl.exp(2.0 * log_a))
            room = tl.where(first & (token == start), 1.0, room)
            raw = tl.load(x + token * channels + c, mask=inside, other=0.0)
            new = raw.to(tl.float32) / (1.0 + tl.exp(-into))
            state = tl.exp(log_a) * state + room * new
            tl.store(out + token * channels + c, state.to(out.dtype.element_ty), mask=inside)
        tl.store(own, state, mask=inside)


def rg_lru(x: Tensor, gates: Tensor, rate: Tensor, states: Tensor, plan: StatePlan) -> Tensor:
    """As `stoker.ops.rg_lru.rg_lru`."""
    x, gates = x.contiguous(), gates.contiguous()
    out = torch.empty_like(x)
    if len(x):
        channels = x.shape[1]
        _rg_lru_kernel[(len(plan.slots), triton.cdiv(channels, 128))](
            *(x, gates, rate, states, plan.slots, plan.starts, plan.fresh.view(torch.uint8)),
            *(out, channels),
            BLOCK=128,
        )
    return out
