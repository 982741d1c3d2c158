"""A projection whose weight is laid out for its device once it has been loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stoker.model.module import Module
from stoker.ops.linear import LinearFn, MakeGated, prepare_linear


@dataclass(frozen=True)
class Packing:
    """How the weights of projections are laid out for a device and dtype.

    Attributes:
        make: makes a linear map of a weight and a bias (ops/linear.py, ops/int8.py, ops/fp8.py).
        make_gated: makes one that applies its gated activation too, or None where it can't.
        make_head: overrides `make` for the LM head.
        gains: whether a matrix (outputs, inputs) of a layer is worth it; a model in which none is
            is refused. None takes all models.
    """

    make: Callable[[Tensor, Tensor | None], LinearFn] = prepare_linear
    make_gated: MakeGated | None = None
    make_head: Callable[[Tensor, Tensor | None], LinearFn] | None = None
    gains: Callable[[int, int], bool] | None = None

    def suits(self, layers: nn.ModuleList) -> bool:
        """Return True if at least one projection is large enough to quantise.

        Works on a model on the meta device.
        """
        return self.gains is None or any(self.narrows(one) for one in layers.parameters())

    def narrows(self, weight: Tensor) -> bool:
        """Whether a layer's `weight` is a matrix that is worth it, and takes 8 bits a number."""
        return self.gains is not None and weight.dim() == 2 and self.gains(*weight.shape)


class Linear(Module):
    """A projection whose weight is packed, and dropped, once it has been loaded."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None
        self._apply_fn: LinearFn | None = None

    def prepare(self, make: Callable[[Tensor, Tensor | None], LinearFn | None]) -> bool:
        """Let `make` choose the implementation, unless one has been; say whether there is one.

        A weight that it has laid out anew is dropped.
        """
        if self._apply_fn is None:
            self._apply_fn = make(self.weight, self.bias)
            if hasattr(self._apply_fn, "weight"):
                del self.weight
        return self._apply_fn is not None

    @property
    def prepared(self) -> bool:
        return self._apply_fn is not None

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        assert self._apply_fn is not None, "prepare() comes first"
        return self._apply_fn(x, add)
