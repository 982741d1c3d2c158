"""What mixers and networks have in common: each adds its output to the residual itself."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from stoker.model.layers.linear import Linear
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.spec import LayerSpec, ModelSpec
from stoker.model.step import StepContext
from stoker.ops.select import Operations
from stoker.quant.choose import Formats


class LayerPart(Module):
    """A mixer or a network; see `forward`."""

    def __init__(self, layer: LayerSpec, model: ModelSpec) -> None:
        super().__init__()
        self.post_norm = make_norm((model.hidden,), model.norm, layer.post_norms)
        self.residual_scale = layer.residual_scale
        self.adds_in_product = not layer.post_norms and layer.residual_scale == 1

    def prepare(self, formats: Formats) -> None:
        """Convert the weights, which are then dropped; a second time nothing is done."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.prepare(formats.projections)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        """The residual plus what the part makes of x.

        Args:
            x: (T, D), the part's input: the residual through a norm, or the residual itself.
            step: as it is for all layers.
            residual: (T, D); may be overwritten.

        Returns: (T, D), or (R, D) of the rows that go on if the part drops the others.
        """
        raise NotImplementedError

    def joined(self, project: Linear, inner: Tensor, residual: Tensor, ops: Operations) -> Tensor:
        """The residual plus the projection of `inner`, in one pass if nothing lies between.

        The residual may be overwritten.
        """
        if self.adds_in_product:
            return cast(Tensor, project(inner, residual))
        y, scale = self.post_norm(project(inner), ops), self.residual_scale
        return cast(Tensor, residual + (y if scale == 1 else y * scale))
