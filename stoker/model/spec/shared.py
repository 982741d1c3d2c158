"""A transformer block whose weights several layers share, before a layer's mixer (Zamba, 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.attention import AroundAttentionSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec


@dataclass(frozen=True)
class SharedBlockSpec(AroundAttentionSpec):
    """What a layer's mixer reads beside the residual x (Glorioso et al., Zamba and Zamba 2, 2024).

    Attention and a network, without residuals of their own, read x and the embeddings e of the
    tokens side by side, 2 * hidden numbers; a linear map of the layer's own leads back:

        h = attention(norm(x | e));  h = network(norm(h));  the mixer reads norm(x + linear(h))

    The weights of attention, network and both norms are held by one layer. Others use them at
    their depth with keys and values, and in Zamba 2 maps of low rank beside the projections, of
    their own. With two blocks that take turns, in layers 1, 3, 5 and 6:

        layer    0  1       2  3       4  5       6
        users    -  (1, 5)  -  (3, 6)  -  (1, 5)  (3, 6)
        use      -  0       -  1       -  2       3

    Attributes:
        layer: the one that this is of.
        users: the layers that use the weights, of which the first holds them.
        use: which of the layers with any such block it is, counted from 0.
        attention_rank: of the maps beside the projections of queries, keys and values; 0: none.
        ffn_rank: of the map beside the projection of gate and up; 0: none.
    """

    ffn: DenseSpec
    layer: int
    users: tuple[int, ...]
    use: int
    attention_rank: int = 0
    ffn_rank: int = 0

    @property
    def borrows(self) -> bool:
        """Whether another layer holds the weights."""
        return self.layer != self.users[0]

    @property
    def sizes(self) -> list[int]:
        """Outputs of the projections of queries, keys and values."""
        return [count * self.attention.head_dim for count in self.attention.heads_made]

    def _shared_weights(self, hidden: int) -> int:
        heads = self.attention.heads * self.attention.head_dim
        attention = 2 * hidden * sum(self.sizes) + heads * hidden
        return attention + self.ffn.product_weights(hidden)

    def product_weights(self, hidden: int) -> int:
        attention = self.attention_rank * (3 * 2 * hidden + sum(self.sizes))
        ffn = self.ffn_rank * (hidden + 2 * self.ffn.size)
        return self._shared_weights(hidden) + attention + ffn + hidden * hidden

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        if self.borrows:
            return -self._shared_weights(hidden)  # which the layer that holds them counts
        return self.ffn.other_parameters(hidden, norm) + norm.parameters(3 * hidden)
