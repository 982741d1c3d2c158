"""Differential attention: a head is the difference of two (Ye et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.narrow_values import NarrowValuesSpec
from stoker.model.spec.part import NormSpec


@dataclass(frozen=True)
class DifferentialSpec(NarrowValuesSpec):
    """A mixer: attention in which head n gives (1 - start) * norm(a_n - share * a_(n + H/2)).

    Both have their own queries and keys, and values of two heads side by side. With 4 key-value
    heads, whose values are v0 to v3:

        key-value head    0      1      2      3
        values            v0 v2  v1 v3  v0 v2  v1 v3

    They are stored so, each twice. `share` is learned, and `start` is what it started from.
    """

    start: float = 0.0

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
