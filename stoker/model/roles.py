"""What the outputs of a projection, or the elements of a norm, are: parts, heads, rotated heads.

A checkpoint may store the parts of a fused projection apart, and may order the numbers of a head
in another way. The layer that makes a projection or norm gives it its role; the loader asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.latent import LatentSpec


@dataclass(frozen=True)
class Role:
    """The parts of a projection's outputs, in order.

    2 query heads, 1 key and value head, 4 numbers each, of which a rotary embedding turns 2:

        outputs   0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 13 14 15
                  query 0   query 1   key 0       value 0
                  ^ ^       ^ ^       ^ ^                        rotated
        sizes = (8, 4, 4), rotated = (2, 1, 0), head_dim = 4, rotary_dim = 2

    Attributes:
        sizes: outputs of each part; empty for one part of all of them.
        rotated: heads of each part that are rotated, counted from its first.
        head_dim: numbers of a head; 0 if there are no heads.
        rotary_dim: numbers of a head that are rotated, from the `rotary_start`-th.
        groups: neighbouring heads form groups, each with a share of every part.
        pairs: checkpoints have those as neighbours, see `From.pairs`.
    """

    sizes: tuple[int, ...] = ()
    rotated: tuple[int, ...] = ()
    head_dim: int = 0
    rotary_dim: int = 0
    groups: int = 1
    rotary_start: int = 0
    pairs: bool = False


PLAIN = Role()


def qkv(spec: AttentionSpec) -> Role:
    """Queries, keys and values of all heads in one projection, those that there are.

    A gate comes first, if there is one.
    """
    made = spec.heads_made
    rotary_dim = spec.rope.dim if spec.rope else 0
    sizes = tuple(count * spec.head_dim for count in made)
    rotated = (*made[:2], 0)[: len(made)]
    if spec.gate:
        sizes, rotated = (spec.gate_size, *sizes), (0, *rotated)
    return Role(sizes, rotated, spec.head_dim, rotary_dim, spec.kv_heads)


def keys_and_values(spec: AttentionSpec) -> Role:
    """Keys and values of all heads in one projection."""
    size, rotary_dim = spec.kv_heads * spec.head_dim, spec.rope.dim if spec.rope else 0
    return Role((size, size), (spec.kv_heads, 0), spec.head_dim, rotary_dim)


def gate_up(size: int) -> Role:
    """A gate and what it gates, `size` outputs each."""
    return Role((size, size))


def latent(spec: LatentSpec, count: int, size: int) -> Role:
    """`count` heads of `size` numbers, of which the shared ones are the last."""
    rotary_dim, start = spec.rope.dim if spec.rope else 0, size - spec.shared_dim
    return Role((count * size,), (count,), size, rotary_dim, rotary_start=start, pairs=spec.pairs)


def heads(spec: AttentionSpec, count: int) -> Role:
    """The elements of a norm of queries or keys: `count` heads, or one that all heads share."""
    count = 1 if spec.qk_norm == "head" else count
    rotary_dim = spec.rope.dim if spec.rope else 0
    return Role((count * spec.head_dim,), (count,), spec.head_dim, rotary_dim)
