"""Experts whose sum is added a layer later, so that both can be computed at the same time."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class ShortcutSpec(PartSpec):
    """A network: a dense one, and experts that read the same (LongCat-Flash, 2025).

    What the experts make is added by the `ShortcutEndSpec` of the next layer:

        layer 0    h = norm(x);  x += dense(h);  late = experts(h)
        layer 1    x += mixer(norm(x));  x += dense(norm(x)) + late
    """

    dense: DenseSpec
    experts: ExpertsSpec

    def product_weights(self, hidden: int) -> int:
        return self.dense.product_weights(hidden) + self.experts.product_weights(hidden)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        parts = (self.dense, self.experts)
        return sum(part.other_parameters(hidden, norm) for part in parts)


@dataclass(frozen=True)
class ShortcutEndSpec(DenseSpec):
    """A dense network, to which is added what the experts of the layer before have made."""
