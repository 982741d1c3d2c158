"""Inputs of layers that depend on a token alone, beside the residual (Gemma 3n and 4)."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.spec.part import NormSpec, PartSpec


@dataclass(frozen=True)
class TokenInputsSpec:
    """A vector of each token for each layer, made once for a step (Gemma 3n, 2025).

    It is (norm(map(embedding) / sqrt(hidden)) + sqrt(width) * row) / sqrt(2), where the token's row
    of a table and what the linear map makes of its embedding each have `width` numbers for each
    layer. Ids beyond the table take its first row.

    Attributes:
        width: numbers for a layer.
        rows: of the table.
    """

    width: int
    rows: int

    def table(self, layers: int) -> int:
        """Numbers in the table, of which a token reads one row."""
        return self.rows * layers * self.width

    def product_weights(self, layers: int, hidden: int) -> int:
        """Weights that each token is multiplied by."""
        return layers * self.width * hidden


@dataclass(frozen=True)
class TokenInputSpec(PartSpec):
    """How a layer takes in its token input: x += norm(project(act(gate(x)) * input))."""

    width: int
    activation: str = "gelu_tanh"

    def product_weights(self, hidden: int) -> int:
        return 2 * hidden * self.width

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        return 0
