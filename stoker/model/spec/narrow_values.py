"""Attention whose values are of another width than its keys (MiMo-V2-Flash, 2026)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.cache_spec import CacheSpec
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.part import NormSpec


@dataclass(frozen=True)
class NarrowValuesSpec(AttentionSpec):
    """A mixer: attention with keys of `head_dim` numbers and values of `value_dim`.

    It has sinks, windows and biases as others do, and no norms, gates or shared caches.

    Attributes:
        value_dim: numbers of a value's head, needed.
        value_scale: multiplies values.
    """

    value_dim: int = 0
    value_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.value_dim, "that's what it is for"
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
