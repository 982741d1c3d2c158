"""Softmax attention with grouped key-value heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stoker.errors import ModelError
from stoker.model.cache_spec import CacheSpec
from stoker.model.rope import Growth, Rope
from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class AttentionSpec(PartSpec):
    """A mixer: softmax attention with grouped key-value heads.

    Attributes:
        scale: of the scores, before softmax.
        rope: none for a layer that is blind to positions, or has them in its input.
        qk_norm: norms of queries and keys: over each head with weights (head_dim,) that all
            heads share ("head") or (heads, head_dim) ("own"), or over all heads at once
            ("projection").
        window: keys seen, counted back from the query's own; all if none.
        clip: queries, keys and values are clamped to +-clip before anything else.
        softcap: scores become softcap * tanh(score / softcap).
        growth: of the queries with their position.

    Raises:
        ModelError: the heads can't share the key-value heads evenly.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["head", "own", "projection"] | None = None
    window: int | None = None
    clip: float | None = None
    softcap: float | None = None
    growth: Growth | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ModelError(
                f"{self.heads} attention heads in config.json can't share {self.kv_heads} "
                "key-value heads evenly (num_attention_heads, num_key_value_heads)"
            )

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        return (self.rope,)

    @property
    def soft_capped(self) -> bool:
        return self.softcap is not None

    def cache_spec(self) -> CacheSpec:
        return CacheSpec(self.kv_heads, self.head_dim, self.window)

    def product_weights(self, hidden: int) -> int:
        return hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        biases = self.qkv_bias * (self.heads + 2 * self.kv_heads) * self.head_dim
        heads = {None: 0, "head": 2}.get(self.qk_norm, self.heads + self.kv_heads)
        return biases + self.out_bias * hidden + norm.parameters(heads * self.head_dim)

    @property
    def flops_per_pair(self) -> int:
        return 4 * self.heads * self.head_dim
