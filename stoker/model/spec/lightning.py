"""Linear attention whose state decays at a fixed rate: MiniMax's lightning attention."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.cache_spec import StatePart, StateSpec
from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class LightningSpec(PartSpec):
    """A mixer: out(norm(y) * sigmoid(gate)), with y = q^T state of each head.

    A token makes the state exp(-slope) * state + k v^T, with q, k and v behind an activation (Qin
    et al., Lightning Attention-2, 2024).

    Attributes:
        slopes: of each head.
        head_dim: numbers of a query, a key and a value.
        activation: of queries, keys and values.
        eps: of the norm, over all heads at once.
    """

    slopes: tuple[float, ...]
    head_dim: int
    activation: str
    eps: float

    @property
    def heads(self) -> int:
        return len(self.slopes)

    def cache_spec(self) -> StateSpec:
        return StateSpec((StatePart((self.heads, self.head_dim, self.head_dim), float32=True),))

    def product_weights(self, hidden: int) -> int:
        return 5 * hidden * self.heads * self.head_dim

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        return self.heads * self.head_dim

    @property
    def state_flops(self) -> int:
        """5 D^2 for each head of D numbers (Qin et al., 2024).

        exp(-slope) * state + k v^T takes 3 for each of the state's numbers, q^T state takes 2.
        """
        return 5 * self.heads * self.head_dim**2
