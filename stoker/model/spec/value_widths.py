"""Attention whose values are of another width than its keys, and what is built on it.

Doge's keys are worth more or less by themselves, one number wider than its values (Shi et al.,
2024). Differential attention has values twice as wide, of two heads (Ye et al., 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.cache_spec import CacheSpec
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.part import NormSpec


@dataclass(frozen=True, kw_only=True)
class ValueWidthSpec(AttentionSpec):
    """A mixer: attention with keys of `head_dim` numbers and values of `value_dim`.

    MiMo-V2-Flash's (2026) are narrower. It has sinks, windows and biases as others do, and no
    norms, gates or shared caches.

    Attributes:
        value_dim: numbers of a value's head.
        value_scale: multiplies values.
    """

    value_dim: int
    value_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.qk_norm is None, "not built"
        assert self.gate is None, "not built"
        assert not self.out_norm, "not built"
        assert self.reads is None, "not built"
        assert not self.keys_as_values, "they are of different widths"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of queries, keys and values."""
        keys = self.kv_heads * self.head_dim
        return self.heads * self.head_dim, keys, self.kv_heads * self.value_dim

    @property
    def out_size(self) -> int:
        """Numbers that the projection out reads."""
        return self.heads * self.value_dim

    @property
    def special_scores(self) -> bool:
        return True

    def cache_spec(self) -> CacheSpec:
        return CacheSpec(self.kv_heads, self.head_dim, self.window, value_dim=self.value_dim)

    def product_weights(self, hidden: int) -> int:
        return hidden * (sum(self.sizes) + self.out_size)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        biases = self.qkv_bias * sum(self.sizes) + self.out_bias * hidden
        return biases + self.sinks * self.heads

    @property
    def flops_per_pair(self) -> int:
        return 2 * self.heads * (self.head_dim + self.value_dim)


@dataclass(frozen=True, kw_only=True)
class BiasedKeysSpec(ValueWidthSpec):
    """A mixer: attention in which exp(rate * softplus(map(values))) is added to a key's scores.

    The map is from the values of all heads of a token to a number for each key-value head, and
    rates are those heads'. A key is stored with the number behind it, to which queries have 1 /
    scale. Queries and keys have norms over each head.
    """

    def cache_spec(self) -> CacheSpec:
        return CacheSpec(self.kv_heads, self.head_dim + 1, self.window, value_dim=self.value_dim)

    def product_weights(self, hidden: int) -> int:
        return super().product_weights(hidden) + self.sizes[2] * self.kv_heads

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        own = self.kv_heads * (1 + self.qkv_bias) + 2 * norm.parameters(self.head_dim)
        return super().other_parameters(hidden, norm) + own


@dataclass(frozen=True, kw_only=True)
class DifferentialSpec(ValueWidthSpec):
    """A mixer: attention in which head n gives (1 - start) * norm(a_n - share * a_(n + H/2)).

    Both have their own queries and keys, and values of two heads side by side. With 4 key-value
    heads, whose values are v0 to v3:

        key-value head    0      1      2      3
        values            v0 v2  v1 v3  v0 v2  v1 v3

    They are stored so, each twice. `share` is learned, and `start` is what it started from.
    """

    start: float

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.value_dim == 2 * self.head_dim
        assert self.kv_heads % 2 == 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        keys = self.kv_heads * self.head_dim
        return self.heads * self.head_dim, keys, keys

    @property
    def out_size(self) -> int:
        return self.heads * self.head_dim

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        return super().other_parameters(hidden, norm) + 4 * self.head_dim
