"""Networks that every token goes through alike: a feed-forward network, and a single matrix."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class DenseSpec(PartSpec):
    """A feed-forward network: down(act(gate(x)) * up(x)), or down(act(up(x))) if not gated.

    Attributes:
        gate_scale: multiplies gate(x) before act; not of experts.
        activation: a key of `ACTIVATIONS`, or "xielu", whose two slopes are learned.
        sparsity: so large a share of the gate, if it were normally distributed, becomes 0 before
            act, and the rest is lowered as much (Gemma 3n, 2025).
        inner_norm: a norm before down (BitNet, 2024).
        limit: of an expert's gate from above, and of what it gates both ways, before act.
        shift: is added to what the gate of an expert gates (gpt-oss).
    """

    size: int
    activation: str = "silu"
    gated: bool = True
    bias: bool = False
    sparsity: float = 0.0
    inner_norm: bool = False
    limit: float | None = None
    shift: float = 0.0
    gate_scale: float = 1.0

    def product_weights(self, hidden: int) -> int:
        return (3 if self.gated else 2) * hidden * self.size

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        biases = self.bias * ((2 if self.gated else 1) * self.size + hidden)
        inner = self.inner_norm * norm.parameters(self.size)
        return biases + inner + 2 * (self.activation == "xielu")


@dataclass(frozen=True)
class HeadMapSpec:
    """What lies before the head: norm(act(W h)), of the final states h (ModernBERT, 2024).

    Attributes:
        bias: of W.
    """

    activation: str
    bias: bool = False

    def weights(self, hidden: int) -> int:
        """Of W, by which rows that get logits are multiplied."""
        return hidden * hidden

    def parameters(self, hidden: int, norm: NormSpec) -> int:
        """All of them."""
        return self.weights(hidden) + self.bias * hidden + norm.parameters(hidden)


@dataclass(frozen=True)
class LinearMapSpec(PartSpec):
    """One linear map in the place of a mixer or of a network (Bercovich et al., Puzzle, 2024)."""

    bias: bool = False

    def product_weights(self, hidden: int) -> int:
        return hidden * hidden

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        return self.bias * hidden
