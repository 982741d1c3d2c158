"""The gated delta rule of a training model, over chunks (Yang et al., Gated Delta Networks, 2024).

Knows one layer only. Parameters are named as in Qwen3.5.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from parts import EPS, RMSNorm, Shape
from torch import Tensor, nn

CHUNK = 64
KERNEL = 4


def delta_rule(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
    """For each head, `S = exp(decay) S + k (beta (v - (exp(decay) S)^T k))^T; out = S^T q`.

    q, k: (rows, heads, length, key size); v: (..., value size); decay <= 0 and beta: (rows,
    heads, length). All float32, and the length is a multiple of CHUNK. What the tokens of a chunk
    write depends on one another by a triangular system, so a chunk is a few matrix products.
    """
    q, k, v, decay, beta = (x.unflatten(2, (-1, CHUNK)) for x in (q, k, v, decay, beta))
    since = decay.cumsum(-1)  # log of the decay since the chunk began
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    between = (since[..., :, None] - since[..., None, :]).masked_fill(~lower, -math.inf).exp()
    scaled = k * beta[..., None]
    among = ((scaled @ k.mT) * between).tril(-1)  # what a token's write owes to earlier ones
    right = torch.cat((v * beta[..., None], scaled * since[..., None].exp()), -1)
    solved = torch.linalg.solve_triangular(among, right, upper=False, unitriangular=True)
    written, owed = solved.split((v.shape[-1], k.shape[-1]), -1)  # owed: to the state before
    within = (q @ k.mT) * between
    into = q * since[..., None].exp()
    kept = k * (since[..., -1:] - since)[..., None].exp()
    state = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    outputs = []
    for i in range(q.shape[2]):
        new = written[:, :, i] - owed[:, :, i] @ state
        outputs.append(into[:, :, i] @ state + within[:, :, i] @ new)
        state = state * since[:, :, i, -1, None, None].exp() + kept[:, :, i].mT @ new
    return torch.stack(outputs, 2).flatten(2, 3)


class GatedDelta(nn.Module):
    """Short convolution, gated delta rule, norm and output gate."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.key, self.value = shape.heads, shape.delta_key, shape.delta_value
        keys, values = self.heads * self.key, self.heads * self.value
        self.sizes = (keys, keys, values)
        self.in_proj_qkv = nn.Linear(shape.hidden, sum(self.sizes), bias=False)
        self.in_proj_z = nn.Linear(shape.hidden, values, bias=False)
        self.in_proj_b = nn.Linear(shape.hidden, self.heads, bias=False)
        self.in_proj_a = nn.Linear(shape.hidden, self.heads, bias=False)
        self.conv1d = nn.Conv1d(
            sum(self.sizes), sum(self.sizes), KERNEL, groups=sum(self.sizes), bias=False
        )
        # A head forgets a share 1 / e of its state in some 10 to 1,000 tokens.
        span = torch.logspace(1, 3, self.heads)
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.dt_bias = nn.Parameter(torch.expm1(1 / span).log())
        self.norm = RMSNorm(self.value)
        self.out_proj = nn.Linear(values, shape.hidden, bias=False)

    def convolve(self, x: Tensor) -> Tensor:
        """Each channel with its last KERNEL values; (rows, length, channels)."""
        padded = F.pad(x.float(), (0, 0, KERNEL - 1, 0))
        weight = self.conv1d.weight[:, 0]
        taps = (padded[:, i : i + x.shape[1]] * weight[:, i] for i in range(KERNEL))
        return F.silu(sum(taps, torch.zeros(())))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mixed = self.convolve(self.in_proj_qkv(x))
        beta = torch.sigmoid(self.in_proj_b(x).float())
        step = F.softplus(self.in_proj_a(x).float() + self.dt_bias)
        decay = -self.A_log.exp() * step
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in mixed.split(self.sizes, -1)
        )
        q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + EPS) * self.key**-0.5
        k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + EPS)
        fill = -length % CHUNK
        q, k, v = (F.pad(part, (0, 0, 0, fill)) for part in (q, k, v))
        decay, beta = (F.pad(part.transpose(1, 2), (0, fill)) for part in (decay, beta))
        with torch.autocast("cpu", enabled=False):
            out = delta_rule(q, k, v, decay, beta)[:, :, :length].transpose(1, 2)
        gate = F.silu(self.in_proj_z(x).float()).view_as(out)
        return self.out_proj((self.norm(out) * gate).flatten(2))
