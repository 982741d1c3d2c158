"""Several residual streams side by side, of which layers compute on one (Gemma 3n)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class StreamsSpec(PartSpec):
    """Alternating updates (AltUp, Baykal et al., 2023) with a learned augmented residual (LAuReL,
    Menghani et al., 2024): what a layer has around its mixer and network.

    A layer predicts all streams from those before it, computes on the active one, and corrects
    all by how far that was off.

    Attributes:
        count: streams.
        active: the one that mixer and network see.
        scaled: the corrected active stream is multiplied by learned numbers where the token input
            reads it.
        rank: of the linear map beside the mixer.
    """

    count: int
    active: int
    scaled: bool
    rank: int

    def product_weights(self, hidden: int) -> int:
        routed = 2 * hidden * self.count + self.count**3 + self.count**2
        return 2 * hidden * self.rank + routed

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        router = hidden * self.count  # counted twice above, as it is used twice
        return hidden + 2 * norm.parameters(hidden) - router

    def around(self, hidden: int) -> int:
        """Weights of the maps that make the streams and that join them."""
        return 2 * (self.count - 1) * hidden**2
