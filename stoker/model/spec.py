"""A model as data: layers with their own sizes, and nothing of any family's name.

A family turns its Hugging Face config into a `ModelSpec` (families.py); one transformer
executes any of them (transformer.py). The work of a step is counted from it (work.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of low rotary frequencies (Llama 3 report; Hugging Face "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def apply(self, inv_freq: Tensor) -> Tensor:
        wavelength = 2 * math.pi / inv_freq
        low = self.original_context / self.low_freq_factor
        high = self.original_context / self.high_freq_factor
        smooth = (self.original_context / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        mixed = (1 - smooth) * inv_freq / self.factor + smooth * inv_freq
        scaled = torch.where(wavelength > low, inv_freq / self.factor, inv_freq)
        return torch.where((wavelength <= low) & (wavelength >= high), mixed, scaled)


@dataclass(frozen=True)
class Rope:
    """Rotary embedding over the whole head, with frequencies theta ** (-2i / dim)."""

    dim: int
    theta: float
    scaling: Llama3Scaling | None = None

    def inv_freq(self) -> Tensor:
        """Frequencies (dim/2,) float32, in radians per position."""
        exponents = torch.arange(0, self.dim, 2, dtype=torch.int64).float() / self.dim
        inv_freq = 1.0 / (self.theta**exponents)
        return self.scaling.apply(inv_freq) if self.scaling else inv_freq


@dataclass(frozen=True)
class Attention:
    """A mixer: softmax attention with grouped key-value heads."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    window: int | None = None

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.head_dim)


@dataclass(frozen=True)
class Dense:
    """A feed-forward network: down(act(gate(x)) * up(x))."""

    size: int
    activation: str = "silu"
    bias: bool = False


@dataclass(frozen=True)
class Layer:
    """x += mixer(norm(x)); x += ffn(norm(x))."""

    mixer: Attention
    ffn: Dense


@dataclass(frozen=True)
class ModelSpec:
    """A decoder: embedding, layers, final norm, head.

    Attributes:
        hidden: width of the residual stream.
        vocab: rows of the embedding and of the head.
        context: most positions the model was made for.
        tied_head: the head is the embedding.
        labels: rows of a classification head, 0 for no head at all; None: the head gives
            logits over the vocabulary.
    """

    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    norm_eps: float
    context: int
    tied_head: bool
    labels: int | None = None
