"""What lies between the final norm and the head; see `HeadMapSpec`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stoker.model.layers.linear import Linear
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import HeadMapSpec
from stoker.ops.select import Operations


class HeadMap(Module):
    """norm(act(W h)) of final states h (R, D)."""

    def __init__(self, spec: HeadMapSpec, model: ModelSpec) -> None:
        super().__init__()
        self.activation = spec.activation
        self.dense = Linear(model.hidden, model.hidden, spec.bias)
        self.norm = make_norm((model.hidden,), model.norm)

    def before(
        self, head: Callable[[Tensor], Tensor], ops: Operations
    ) -> Callable[[Tensor], Tensor]:
        """The head of what this makes of states."""

        def logits(hidden_RD: Tensor) -> Tensor:
            inner = ops.activate(self.dense(hidden_RD), self.activation, False)
            return head(self.norm(inner, ops))

        return logits
