"""Multi-head latent attention: keys and values of all heads from one short row per token."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.cache_spec import CacheSpec
from stoker.model.rope import Growth, Rope
from stoker.model.spec.part import NormSpec, PartSpec

FEW = 16  # queries of a sequence, absorbed together with the decodes


@dataclass(frozen=True)
class LatentSpec(PartSpec):
    """A mixer: softmax attention over latent rows (DeepSeek-V2, 2024).

    A token's row is a latent vector and a few shared numbers. A head's key is a linear map of the
    latent vector, and the shared numbers; its value is another map of the latent vector.

        row         rank latent numbers            | shared numbers     512 + 64 in DeepSeek-V3
        key         plain numbers, made of these   | the same           128 + 64
        value       made of the latent numbers                          128

    Attributes:
        heads: that have keys and values of their own.
        rank: of the latent vector.
        plain_dim, shared_dim, value_dim: numbers of a head.
        scale: of the scores, before softmax.
        eps: of the norms of latent vectors.
        query_rank: queries are made of a normed vector of this rank; None: of the input itself.
        rope: turns the shared numbers; none for a layer that is blind to positions.
        pairs: checkpoints have the rotated numbers as neighbours (2i, 2i + 1).
        bias: of the maps to both vectors and of the output.
        growth: of the queries with their position.
        latent_gain: multiplies latent vectors behind their norm (LongCat).
        gates_heads: what a head gives is multiplied by the sigmoid of a linear map of the layer's
            input (Ling 3, 2026).
    """

    heads: int
    rank: int
    plain_dim: int
    shared_dim: int
    value_dim: int
    scale: float
    eps: float
    query_rank: int | None = None
    rope: Rope | None = None
    pairs: bool = False
    bias: bool = False
    growth: Growth | None = None
    latent_gain: float = 1.0
    gates_heads: bool = False

    @property
    def key_dim(self) -> int:
        """Numbers of a head's queries and keys."""
        return self.plain_dim + self.shared_dim

    @property
    def row(self) -> int:
        """Numbers that are cached of a token."""
        return self.rank + self.shared_dim

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        return (self.rope,)

    @property
    def special_scores(self) -> bool:
        return True  # queries of more than 256 numbers, which not every implementation takes

    def cache_spec(self) -> CacheSpec:
        return CacheSpec(1, self.row, value_dim=self.rank, latent=True)

    def product_weights(self, hidden: int) -> int:
        queries = self.heads * self.key_dim
        of_queries = hidden * queries
        if self.query_rank is not None:
            of_queries = self.query_rank * (hidden + queries)
        of_heads = self.rank * self.heads * (self.plain_dim + self.value_dim)
        outputs = hidden * self.heads * (self.value_dim + self.gates_heads)
        return of_queries + hidden * self.row + of_heads + outputs

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        ranks = self.rank + (self.query_rank or 0)
        return ranks + self.bias * (ranks + self.shared_dim + hidden)

    @property
    def flops_per_pair(self) -> int:
        return 2 * self.heads * (self.row + self.rank)

    def expands(self, queries: int, context: int) -> bool:
        """Whether making keys and values of a context costs less than attending to latent rows.

        Absorbed, each of `queries`, the last tokens of `context`, meets rows of `row` and `rank`
        numbers in each head; expanded it meets keys and values of heads, but those of every token
        of the context must be made first. FLOPs of one head in DeepSeek-V3, a context of 1000:

            1 query       1000 pairs * 2176 =    2.2 M,  1000 pairs * 640 + 1000 * 262144 = 263 M
            1000 queries  500500 pairs * 2176 = 1089 M,  500500 * 640 + 263 M             = 582 M

        The maps that an absorbed query and its result go through are as large as those of a token
        that is expanded. A few queries are not worth a product of their own.
        """
        if queries < FEW:
            return False
        pairs = queries * context - queries * (queries - 1) // 2
        maps = 2 * self.rank * (self.plain_dim + self.value_dim)
        absorbed = 2 * (self.row + self.rank) * pairs + maps * queries
        return 2 * (self.key_dim + self.value_dim) * pairs + maps * context < absorbed
