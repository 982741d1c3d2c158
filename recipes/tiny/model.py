"""The models that are trained: Qwen3, GLM-4.5 and Qwen3.5, with transformers' parameter names.

Which of them a shape gives follows from its fields. Knows nothing of data, optimisers or
generation: it maps token ids to hidden states, and the chosen hidden states to logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from delta import GatedDelta
from experts import Experts
from parts import MLP, Attention, RMSNorm, Shape
from torch import Tensor, nn

OUTPUTS = ("o_proj.weight", "out_proj.weight", "down_proj.weight")


class Block(nn.Module):
    """Attention or delta rule, then MLP or experts, each behind a norm and with a residual."""

    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden)
        if shape.attends(index):
            self.self_attn = Attention(shape)
        else:
            self.linear_attn = GatedDelta(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden)
        self.mlp = Experts(shape) if shape.experts else MLP(shape.hidden, shape.ffn)
        self.attends = shape.attends(index)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        normed = self.input_layernorm(x)
        x = x + (self.self_attn(normed, cos, sin) if self.attends else self.linear_attn(normed))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Block(shape, index) for index in range(shape.layers))
        self.norm = RMSNorm(shape.hidden)
        size = int(shape.head_dim * shape.rotary)
        steps = torch.arange(0, size, 2).float() / size
        angles = torch.outer(torch.arange(shape.context).float(), shape.theta**-steps)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class TinyModel(nn.Module):
    """A decoder with tied embeddings; `forward` gives hidden states, `logits` the scores."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, weight in self.named_parameters():
            if weight.ndim != 2:
                continue
            if name.endswith(OUTPUTS):
                nn.init.zeros_(weight)
            elif "embed_tokens" in name:
                nn.init.normal_(weight, std=0.05)
            else:
                nn.init.normal_(weight, std=0.6 * weight.shape[1] ** -0.5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)

    def balance(self) -> None:
        """Correct the routers by the loads of the last call, where there are some."""
        for part in self.modules():
            if isinstance(part, Experts):
                part.balance()
