"""The sizes of a training model and the parts that all of them share.

Knows nothing of how parts are put together (model.py), of data or of optimisers. Parameters are
named as in transformers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; what it has beside plain Qwen3 is off by default."""

    vocab: int = 3072
    hidden: int = 256
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 640  # with experts, of the one that all tokens pass
    context: int = 4096
    theta: float = 100_000.0

    output_gate: bool = False  # sigmoid gates on what attention puts out
    rotary: float = 1.0  # share of a head that is rotated
    experts: int = 0
    active: int = 0
    expert_ffn: int = 0
    attention_every: int = 1  # the other layers have the gated delta rule
    delta_key: int = 0  # sizes of a head of those
    delta_value: int = 0

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)

    def attends(self, layer: int) -> bool:
        """Whether the layer has attention: with one in four, layers 3, 7, 11 do."""
        return (layer + 1) % self.attention_every == 0


SHAPES = {
    "main": Shape(),
    "draft": Shape(hidden=96, layers=3, heads=2, kv_heads=1, head_dim=64, ffn=192),
    "moe": Shape(layers=4, ffn=128, rotary=0.5, experts=8, active=2, expert_ffn=64),
    "hybrid": Shape(
        hidden=128,
        layers=8,
        head_dim=32,
        ffn=256,
        output_gate=True,
        rotary=0.5,
        attention_every=4,
        delta_key=32,
        delta_value=64,
    ),
}


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned gain."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
        return (wide * scale * self.weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, halves layout, of as many leading elements as the angles have."""
    size = 2 * cos.shape[-1]
    left, right = x[..., :size].float().chunk(2, dim=-1)
    turned = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)
    return turned if size == x.shape[-1] else torch.cat((turned, x[..., size:]), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys, and with output gates if asked."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner, inner_kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, inner * (1 + shape.output_gate), bias=False)
        self.k_proj = nn.Linear(shape.hidden, inner_kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden, inner_kv, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden, bias=False)
        self.q_norm = RMSNorm(shape.head_dim)
        self.k_norm = RMSNorm(shape.head_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads, kv_heads = self.shape.heads, self.shape.kv_heads
        q = self.q_proj(x).unflatten(-1, (heads, -1))
        q, gate = q.split(self.shape.head_dim, -1) if self.shape.output_gate else (q, None)
        q = self.q_norm(q).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).unflatten(-1, (kv_heads, -1))).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, (kv_heads, -1)).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        if gate is not None:
            mixed = mixed * torch.sigmoid(gate)
        return self.o_proj(mixed.flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, ffn, bias=False)
        self.up_proj = nn.Linear(hidden, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
