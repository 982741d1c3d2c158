"""Attention and a state space beside each other, as in Falcon-H1 (2025)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.cache_spec import AnyCacheSpec
from stoker.model.spec.attention import AroundAttentionSpec
from stoker.model.spec.part import NormSpec
from stoker.model.spec.state_space import Mamba2Spec


@dataclass(frozen=True)
class SideBySideSpec(AroundAttentionSpec):
    """A mixer: the sum of two mixers of the same input, of which one attends.

    Attributes:
        state: the other one.
        attention_scales, state_scales: multiply what each reads and what it gives.
    """

    state: Mamba2Spec
    attention_scales: tuple[float, float] = (1.0, 1.0)
    state_scales: tuple[float, float] = (1.0, 1.0)

    def cache_specs(self) -> tuple[AnyCacheSpec, ...]:
        return (*super().cache_specs(), *self.state.cache_specs())

    def product_weights(self, hidden: int) -> int:
        return self.attention.product_weights(hidden) + self.state.product_weights(hidden)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        others = self.attention.other_parameters(hidden, norm)
        return others + self.state.other_parameters(hidden, norm)

    @property
    def state_flops(self) -> int:
        return self.state.state_flops
