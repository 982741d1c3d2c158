"""Attention whose keys are worth more or less by themselves (Doge, Shi et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.cache_spec import CacheSpec
from stoker.model.spec.narrow_values import NarrowValuesSpec
from stoker.model.spec.part import NormSpec


@dataclass(frozen=True)
class BiasedKeysSpec(NarrowValuesSpec):
    """A mixer: attention in which exp(rate * softplus(map(values))) is added to a key's scores.

    The map is from the values of all heads of a token to a number for each key-value head, and
    rates are those heads'. A key is stored with the number behind it, to which queries have 1 /
    scale. Queries and keys have norms over each head.
    """

    @property
    def sizes(self) -> tuple[int, int, int]:
        keys = self.kv_heads * self.head_dim
        return self.heads * self.head_dim, keys, keys

    def cache_spec(self) -> CacheSpec:
        return CacheSpec(self.kv_heads, self.head_dim + 1, self.window, value_dim=self.value_dim)

    def product_weights(self, hidden: int) -> int:
        return super().product_weights(hidden) + self.sizes[2] * self.kv_heads

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        own = self.kv_heads * (1 + self.qkv_bias) + 2 * norm.parameters(self.head_dim)
        return super().other_parameters(hidden, norm) + own
