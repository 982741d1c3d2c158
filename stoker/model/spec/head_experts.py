"""Attention with a mixture of heads: each token takes the queries of a few experts (JetMoE)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.part import NormSpec


@dataclass(frozen=True, kw_only=True)
class HeadExpertsSpec(AttentionSpec):
    """A mixer: attention whose query heads belong to experts (Shen et al., JetMoE, 2024).

    A token's experts give it a query for each key-value head, and what their heads find goes
    through their maps out, weighted by the router. With 2 of 4 experts and 3 key-value heads,

        experts of a token    3           1           its heads, `kv_heads` of each expert
        queries               a0 a1 a2    b0 b1 b2
        key-value heads        0  1  2     0  1  2

    so heads that share keys lie next to each other as a0 b0, a1 b1, a2 b2.

    Attributes:
        experts: their maps to queries and from what heads find are its `up` and `down`.
    """

    experts: ExpertsSpec

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.heads == self.experts.routing.active * self.kv_heads

    def _keys_and_values(self, hidden: int) -> int:
        return 2 * hidden * self.kv_heads * self.head_dim

    def product_weights(self, hidden: int) -> int:
        return self._keys_and_values(hidden) + self.experts.product_weights(hidden)

    def unread_weights(self, hidden: int, tokens: int) -> float:
        return self.experts.unread_weights(hidden, tokens)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        return self.experts.other_parameters(hidden, norm)
