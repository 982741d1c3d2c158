"""What a layer keeps of a context, and which layers keep the same: plain numbers, no tensors.

A layer keeps either something of each token, in pages, or a state of fixed size of the sequence.
The layers of a group share block tables: what one of them may drop or take over, all may. Knows
no torch, so that the scheduler's simulations can use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class CacheSpec:
    """The keys and values that a layer keeps of a token.

    Attributes:
        kv_heads, head_dim: a key and a value are (kv_heads, head_dim) each.
        window: tokens that a query sees, counted back from its own; all if None. What lies
            further back is never read again.
        value_dim: numbers of a value's head, where they are not `head_dim`.
        latent: values are not stored: they are the first `value_dim` numbers of the keys.
    """

    kv_heads: int
    head_dim: int
    window: int | None = None
    value_dim: int | None = None
    latent: bool = False

    @property
    def value_width(self) -> int:
        """Numbers of a value's head."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def elements_per_token(self) -> int:
        """Numbers stored per token, of key and value together."""
        return self.kv_heads * (self.head_dim + (0 if self.latent else self.value_width))


@dataclass(frozen=True)
class StatePart:
    """One tensor of a state; it stays in float32 whatever the model computes in, if so asked."""

    shape: tuple[int, ...]
    float32: bool = False


@dataclass(frozen=True)
class StateSpec:
    """What a recurrent layer keeps of a sequence, however long that is."""

    parts: tuple[StatePart, ...]

    def bytes_per_sequence(self, element_size: int) -> int:
        """Bytes of a state, where a number that need not be float32 takes `element_size`."""
        sizes = ((prod(one.shape), 4 if one.float32 else element_size) for one in self.parts)
        return sum(count * size for count, size in sizes)


AnyCacheSpec = CacheSpec | StateSpec


@dataclass(frozen=True)
class CacheGroup:
    """The layers with one spec, by their indices in the model."""

    spec: AnyCacheSpec
    layers: tuple[int, ...]

    @property
    def keeps_state(self) -> bool:
        """Whether the layers keep a state of a sequence, and nothing of single tokens."""
        return isinstance(self.spec, StateSpec)

    @property
    def window(self) -> int | None:
        """Tokens that a query sees, counted back from its own; None for all."""
        return self.spec.window if isinstance(self.spec, CacheSpec) else None

    @property
    def elements_per_token(self) -> int:
        """Numbers stored per token, over all layers of the group; 0 if they keep a state."""
        of_layer = self.spec.elements_per_token if isinstance(self.spec, CacheSpec) else 0
        return len(self.layers) * of_layer

    def bytes_per_sequence(self, element_size: int) -> int:
        """Bytes of a sequence's states, over all layers of the group; 0 if they keep pages."""
        if isinstance(self.spec, CacheSpec):
            return 0
        return len(self.layers) * self.spec.bytes_per_sequence(element_size)


def cache_groups(specs: Iterable[tuple[AnyCacheSpec, ...]]) -> tuple[CacheGroup, ...]:
    """Groups of equal specs in the order of their first layers, those of states last.

    With full attention F, windows W, states S, a layer that caches nothing and one with two specs:

        layer    0  1  2  3  4  5           groups  0: W, layers (1, 5)
        specs    S  W  -  S  F  W S                 1: F, layers (4,)
                                                    2: S, layers (0, 3, 5)

    Args:
        specs: what each layer of a model caches, the first layer first.
    """
    found: dict[AnyCacheSpec, list[int]] = {}
    for layer, of_layer in enumerate(specs):
        for spec in of_layer:
            found.setdefault(spec, []).append(layer)
    groups = [CacheGroup(spec, tuple(layers)) for spec, layers in found.items()]
    return tuple(sorted(groups, key=lambda group: group.keeps_state))  # else as they are
