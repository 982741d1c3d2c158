"""Attention and a state space beside each other, as in Falcon-H1 (2025)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.cache_spec import AnyCacheSpec
from stoker.model.rope import Rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.spec.state_space import Mamba2Spec


@dataclass(frozen=True)
class SideBySideSpec(PartSpec):
    """A mixer: the sum of two mixers of the same input, of which one attends.

    Attributes:
        attention, state: the mixers.
        attention_scales, state_scales: multiply what each reads and what it gives.
    """

    attention: AttentionSpec
    state: Mamba2Spec
    attention_scales: tuple[float, float] = (1.0, 1.0)
    state_scales: tuple[float, float] = (1.0, 1.0)

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        return self.attention.ropes

    @property
    def special_scores(self) -> bool:
        return self.attention.special_scores

    def cache_specs(self) -> tuple[AnyCacheSpec, ...]:
        return (*self.attention.cache_specs(), *self.state.cache_specs())

    def product_weights(self, hidden: int) -> int:
        return self.attention.product_weights(hidden) + self.state.product_weights(hidden)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        others = self.attention.other_parameters(hidden, norm)
        return others + self.state.other_parameters(hidden, norm)

    @property
    def flops_per_pair(self) -> int:
        return self.attention.flops_per_pair

    @property
    def state_flops(self) -> int:
        return self.state.state_flops
