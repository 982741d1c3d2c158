"""Rotary position embedding as data: which frequencies a layer turns its heads by.

Rotary embedding is Su et al. (2021). Every way of stretching it to longer contexts is a
`Scaling`; the numbers are those of Hugging Face's rope types of the same names.
A cached key is turned once, so frequencies can't follow the length of a sequence as it grows.
Where a method wants that (dynamic, longrope), the longest context the engine is set up for
stands in for the length of every sequence. vLLM does alike for longrope; its dynamic base is always
that of the longest context the model allows. With the default context, the model's own, sequences
shorter than that (dynamic) or within the original context (longrope) get other results than in
transformers, which goes by the length of each; docs/models.md says what to set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Scaling(Protocol):
    """A way to change the frequencies; implementations are frozen, so that ropes can be keys."""

    @property
    def factor_of_attention(self) -> float:
        """What cosines and sines are multiplied by."""

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        """Frequencies (dim/2,) float32, for sequences of up to `context` tokens."""


def plain(dim: int, theta: float) -> Tensor:
    """theta ** (-2i / dim), (dim/2,) float32, in radians per position."""
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    return 1.0 / (theta**exponents)


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al., 2023)."""

    factor: float
    factor_of_attention: float = 1.0

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        return plain(dim, theta) / self.factor


@dataclass(frozen=True)
class DynamicScaling:
    """A base that grows with the context beyond the original one ("dynamic NTK", bloc97 and
    emozilla, 2023). The growth is that of a sequence as long as the engine's context: none if
    that is no more than the original."""

    factor: float
    original_context: int
    factor_of_attention: float = 1.0

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        length = max(context, self.original_context)
        grown = self.factor * length / self.original_context - (self.factor - 1)
        return plain(dim, theta * grown ** (dim / (dim - 2)))


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of low frequencies (Llama 3 report, 2024)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    factor_of_attention: float = 1.0

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        inv_freq = plain(dim, theta)
        wavelength = 2 * math.pi / inv_freq
        low = self.original_context / self.low_freq_factor
        high = self.original_context / self.high_freq_factor
        scaled = torch.where(wavelength > low, inv_freq / self.factor, inv_freq)
        if low == high:  # nothing lies between, as in Llama 4 Scout
            return scaled
        smooth = (self.original_context / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        mixed = (1 - smooth) * inv_freq / self.factor + smooth * inv_freq
        return torch.where((wavelength <= low) & (wavelength >= high), mixed, scaled)


@dataclass(frozen=True)
class YarnScaling:
    """Low frequencies divided by a factor, high ones kept, a ramp between (Peng et al., 2023).

    beta_fast and beta_slow are turns over the original context: the ends of the ramp.
    """

    factor: float
    original_context: int
    factor_of_attention: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        def index_of(turns: float) -> float:
            ratio = self.original_context / (turns * 2 * math.pi)
            return dim * math.log(ratio) / (2 * math.log(theta))

        low, high = index_of(self.beta_fast), index_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        width = high - low if high != low else 0.001
        ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
        inv_freq = plain(dim, theta)
        return inv_freq / self.factor * ramp + inv_freq * (1 - ramp)


@dataclass(frozen=True)
class LongRopeScaling:
    """Searched factors for each frequency (Ding et al., 2024): one set up to the original
    context, another beyond. The set is chosen by the engine's context, for all sequences: a
    short one gets the long factors too if the engine would serve a long one."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    factor_of_attention: float

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        factors = self.long if context > self.original_context else self.short
        return plain(dim, theta) / torch.tensor(factors)


@dataclass(frozen=True)
class ProportionalScaling:
    """The first `turned` frequencies, divided by a factor, and 0 for the others (Gemma 4, 2026).

    Unlike in a rope over a part of the head, the frequencies are those of the whole head, and its
    number i meets i + dim/2.
    """

    turned: int
    factor: float = 1.0
    factor_of_attention: float = 1.0

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        found = plain(dim, theta) / self.factor
        found[self.turned :] = 0.0
        return found


@dataclass(frozen=True)
class BackwardScaling:
    """Heads turn the other way (nanochat, Karpathy, 2025)."""

    factor_of_attention: float = 1.0

    def inv_freq(self, dim: int, theta: float, context: int) -> Tensor:
        return -plain(dim, theta)


@dataclass(frozen=True)
class Growth:
    """Queries multiplied by 1 + beta * ln(1 + floor((position + offset) / original_context)), as in
    Llama 4 (Meta, 2025), so that attention over a longer context stays as sharp."""

    beta: float
    original_context: int
    offset: int = 0

    def at(self, positions: Tensor) -> Tensor:
        """The factors (T,) float32 of positions (T,)."""
        # float64, so that after rounding the bits do not depend on the place in the batch
        reached = ((positions + self.offset) // self.original_context).double()
        return (1 + self.beta * torch.log1p(reached)).float()


@dataclass(frozen=True)
class Rope:
    """Rotates the first `dim` of each head."""

    dim: int
    theta: float
    scaling: Scaling | None = None

    def inv_freq(self, context: int) -> Tensor:
        """Frequencies (dim/2,) float32, in radians per position, when the engine serves
        sequences of up to `context` tokens."""
        if self.scaling is None:
            return plain(self.dim, self.theta)
        return self.scaling.inv_freq(self.dim, self.theta, context)

    @property
    def factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return self.scaling.factor_of_attention if self.scaling else 1.0
