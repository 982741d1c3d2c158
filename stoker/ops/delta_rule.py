"""The gated delta rule (Yang et al., Gated Delta Networks, 2025), over packed tokens.

T tokens of S sequences; H value heads share G key heads, of K numbers in a key and V in a value. A
state is a matrix that maps keys to values; a token first forgets some of it, then corrects what
its key is mapped to. Kimi Delta Attention (Kimi Linear, 2025) forgets each of the K rows of the
state to a degree of its own. It is computed as written, a token after the other, so a token's
result does not depend on how its sequence was cut into steps (docs/decisions/
delta-rule-token-by-token.md). Reference: plain PyTorch. Fast path on a CPU: native/delta_rule.c.
States are float32 whatever the dtype of the tokens.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.native.build import signature
from stoker.ops.state_plan import StatePlan, begin, finish, in_turn

MOST_KEYS = 256  # numbers of a key that every implementation takes
GATES = ("silu", "sigmoid")
_EPS = 1e-6  # of the lengths of queries and keys


@dataclass(frozen=True)
class DeltaRule:
    """The sizes and kinds of a layer.

    Attributes:
        key_heads, heads: G and H; each key head serves H / G neighbouring value heads.
        keys, values: K and V.
        by_channel: a head has a decay for each row of its state, not one for all.
        bound: decays are exp(bound * sigmoid(.)), never less than exp(bound); 0 for
            exp(-softplus(.)), which may come down to 0.
        beta_most: the most that a token may correct: 2 lets it turn what it finds around (Grazzi
            et al., negative eigenvalues, 2025).
        gate: the activation of the gate.
        eps: of the norm behind the state.
    """

    key_heads: int
    heads: int
    keys: int
    values: int
    by_channel: bool = False
    bound: float = 0.0
    beta_most: float = 1.0
    gate: Literal["silu", "sigmoid"] = "silu"
    eps: float = 1e-6


class DeltaInputs(NamedTuple):
    """What a step's tokens bring; the rows of each may lie apart.

    Attributes:
        qkv: (T, 2 * G * K + H * V), contiguous: queries, keys and values, behind their convolution.
        a: (T, H), or (T, H * K) by channel: decays, before their activation.
        b: (T, H): how much to correct, before a sigmoid.
        gate: (T, H * V), before its activation.
    """

    qkv: Tensor
    a: Tensor
    b: Tensor
    gate: Tensor


class DeltaWeights(NamedTuple):
    """Float32.

    Attributes:
        rate: (H,), positive; times what a head forgets.
        dt_bias: as a row of a; added to it.
        norm: (V,), of the RMS norm over what a head gives.
    """

    rate: Tensor
    dt_bias: Tensor
    norm: Tensor


class GatedDelta(Protocol):
    """An implementation of `gated_delta`."""

    def __call__(
        self,
        inputs: DeltaInputs,
        weights: DeltaWeights,
        rule: DeltaRule,
        states: Tensor,
        plan: StatePlan,
    ) -> Tensor: ...


def gated_delta(
    inputs: DeltaInputs, weights: DeltaWeights, rule: DeltaRule, states: Tensor, plan: StatePlan
) -> Tensor:
    """The delta rule, what it gives normed and gated.

    For each value head, with q and k brought to length 1, and q divided by sqrt(K):

        state = decay * state,  state += k (beta (v - k^T state))^T,  y = norm(q^T state) act(gate)

    Args:
        states: (places, H, K, V) float32; those of the plan are replaced.

    Returns: (T, H * V) in the dtype of qkv.
    """
    heads, keys, values = rule.heads, rule.keys, rule.values
    all_keys = rule.key_heads * keys
    q, k, v = torch.split(inputs.qkv.float(), [all_keys, all_keys, heads * values], dim=-1)
    shared = heads // rule.key_heads
    q, k = (_unit(one.view(len(one), -1, keys)).repeat_interleave(shared, 1) for one in (q, k))
    q, v = q * keys**-0.5, v.view(len(v), heads, values)
    decay = torch.exp(log_decay(inputs.a, weights, rule))
    beta = inputs.b.float().sigmoid() * rule.beta_most
    y = torch.empty_like(v)
    state = begin(states, plan)
    for who, rows in in_turn(plan):
        now = state[who] * decay[rows, :, :, None]
        held = (now * k[rows, :, :, None]).sum(2)
        delta = (v[rows] - held) * beta[rows, :, None]
        now = now + k[rows, :, :, None] * delta[:, :, None]
        y[rows] = (now * q[rows, :, :, None]).sum(2)
        state[who] = now
    finish(states, state, plan)
    y = F.rms_norm(y, (values,), weights.norm, rule.eps)
    gate = inputs.gate.float().view(y.shape)
    gate = F.silu(gate) if rule.gate == "silu" else gate.sigmoid()
    return (y * gate).flatten(1).to(inputs.qkv.dtype)


def log_decay(a: Tensor, weights: DeltaWeights, rule: DeltaRule) -> Tensor:
    """(T, H, K) or (T, H, 1) float32: the logarithms of decays, none above 0."""
    x = (a.float() + weights.dt_bias).view(len(a), rule.heads, -1)
    rate = weights.rate[:, None]
    return rule.bound * torch.sigmoid(rate * x) if rule.bound else -rate * F.softplus(x)


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPS)


class NativeGatedDelta:
    """`gated_delta` on a CPU, in float32 whatever the dtype of the tokens."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.delta_rule, "pppp ppp p ppp p iiiii iii ii fff")

    def __call__(
        self,
        inputs: DeltaInputs,
        weights: DeltaWeights,
        rule: DeltaRule,
        states: Tensor,
        plan: StatePlan,
    ) -> Tensor:
        qkv, a, b, gate = (one.float() for one in inputs)
        assert qkv.is_contiguous()
        assert a.stride(1) == b.stride(1) == gate.stride(1) == 1
        y = torch.empty(len(qkv), rule.heads * rule.values)
        self._call(
            *(one.data_ptr() for one in (qkv, a, b, gate, *weights, states)),
            *(one.data_ptr() for one in plan[:3]),
            *(y.data_ptr(), len(plan.slots), rule.key_heads, rule.heads, rule.keys, rule.values),
            *(a.stride(0), b.stride(0), gate.stride(0), rule.by_channel, GATES.index(rule.gate)),
            *(rule.beta_most, rule.bound, rule.eps),
        )
        return y.to(inputs.qkv.dtype)
