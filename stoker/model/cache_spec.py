"""What a layer keeps of each token, and which layers keep the same: plain numbers, no tensors.

The layers of a group share block tables: what one of them may drop or take over, all may. Knows
no torch, so that the scheduler's simulations can use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class CacheSpec:
    """The keys and values that a layer keeps of a token.

    Attributes:
        kv_heads, head_dim: a key and a value are (kv_heads, head_dim) each.
        window: tokens that a query sees, counted back from its own; all if None. What lies
            further back is never read again.
    """

    kv_heads: int
    head_dim: int
    window: int | None = None

    @property
    def elements_per_token(self) -> int:
        """Numbers stored per token, of key and value together."""
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class CacheGroup:
    """The layers with one `CacheSpec`, by their indices in the model."""

    spec: CacheSpec
    layers: tuple[int, ...]

    @property
    def elements_per_token(self) -> int:
        """Numbers stored per token, over all layers of the group."""
        return len(self.layers) * self.spec.elements_per_token


def cache_groups(specs: Iterable[CacheSpec | None]) -> tuple[CacheGroup, ...]:
    """Groups of equal specs, in the order of their first layers.

    With full attention F, windows W and a layer that caches nothing (None):

        layer    0  1  2     3  4        groups  0: W, layers (0, 1, 4)
        spec     W  W  None  F  W                1: F, layers (3,)

    Args:
        specs: what each layer of a model caches, the first layer first; None for nothing.
    """
    found: dict[CacheSpec, list[int]] = {}
    for layer, spec in enumerate(specs):
        if spec is not None:
            found.setdefault(spec, []).append(layer)
    return tuple(CacheGroup(spec, tuple(layers)) for spec, layers in found.items())
