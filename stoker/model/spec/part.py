"""What every part of a layer answers for itself, and how a model normalises.

The spec of a part says what the part keeps of a token and what it costs, so nothing else asks
which kind it is (work.py sums up, cache.py makes room).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stoker.model.cache_spec import AnyCacheSpec
from stoker.model.rope import Rope


@dataclass(frozen=True)
class NormSpec:
    """How the model normalises: by root mean square, or to mean 0 and variance 1 ("layer").

    Attributes:
        bias: a learned number is added to each, in a layer norm.
        weight: a learned number multiplies each.
    """

    kind: Literal["rms", "layer"]
    eps: float
    bias: bool = False
    weight: bool = True

    def parameters(self, size: int) -> int:
        """Parameters of a norm over `size` numbers."""
        return size * (self.weight + (self.kind == "layer" and self.bias))


class PartSpec:
    """A part of a layer, a mixer or a network, and what it answers for itself.

    This much holds for a part that looks at no token but its own and keeps nothing; others
    override it. `hidden` is the width of the residual stream.
    """

    reads: int | None = None  # the layer whose keys and values it reads, if it has none

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        """The rotary embeddings it wants tables of."""
        return ()

    @property
    def mixes(self) -> bool:
        """Whether its tokens see others."""
        return bool(self.cache_specs())

    @property
    def special_scores(self) -> bool:
        """Whether its scores of attention are soft-capped, chunked or fall with distance."""
        return False

    def cache_spec(self) -> AnyCacheSpec | None:
        """What it keeps of each token or of a sequence; None for nothing."""
        return None

    def cache_specs(self) -> tuple[AnyCacheSpec, ...]:
        """All that it keeps: no more than one thing of tokens and one of a sequence."""
        found = self.cache_spec()
        return () if found is None else (found,)

    def product_weights(self, hidden: int) -> int:
        """Weights that each token is multiplied by: 2 FLOPs each."""
        raise NotImplementedError

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        """Parameters beside those: biases, norms inside the part, experts a token does not take."""
        return 0

    def unread_weights(self, hidden: int, tokens: int) -> float:
        """Weights that a step of so many tokens is not expected to read."""
        return 0.0

    @property
    def flops_per_pair(self) -> int:
        """FLOPs for a query and a key that it sees, over all heads."""
        return 0

    @property
    def state_flops(self) -> int:
        """FLOPs for a token where it meets the sequence's state.

        One for a multiplication or an addition, as the recurrence is written in `ops/`, a token
        after the other. Exponentials, norms, activations and gates are not counted, as they aren't
        in attention.
        """
        return 0
