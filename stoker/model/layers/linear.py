"""Projections, and the part of a layer that ends in one and adds it to the residual.

A projection is stored in a format and prepared for its device once it has been loaded. Mixers and
networks are parts: each adds its output to the residual itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.roles import PLAIN, Role
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext
from stoker.ops.linear import LinearFn
from stoker.ops.select import Operations
from stoker.quant.choose import Formats
from stoker.quant.floats import FloatFormat
from stoker.quant.format import Parts, WeightFormat, convert


class Linear(Module):
    """y = x W^T + b, with W (outputs, inputs) as the parts of a format.

    The parts are parameters until `prepare` has made a product of them, and are dropped then.

    Attributes:
        role: what the outputs are.
        as_loaded: W is not converted to another format.
        format: how W is stored; floats of torch's default dtype to begin with.
    """

    format: WeightFormat

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = False,
        role: Role = PLAIN,
        *,
        as_loaded: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.role = inputs, outputs, role
        self.as_loaded = as_loaded
        self._part_names: tuple[str, ...] = ()
        self._product: LinearFn | None = None
        self._gated = False
        self.store_as(FloatFormat(torch.get_default_dtype()))
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None

    def store_as(self, weight_format: WeightFormat) -> None:
        """Make empty parts of this format, in place of those there were, on the meta device."""
        self._drop_parts()
        self.format = weight_format
        for name, part in weight_format.parts(self.outputs, self.inputs).items():
            empty = torch.empty(part.shape, dtype=part.dtype, device="meta")
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
            self._part_names += (name,)

    @property
    def parts(self) -> Parts:
        """The parts by name; empty once they have been dropped."""
        return {name: getattr(self, name) for name in self._part_names}

    @property
    def packed(self) -> tuple[Tensor, ...]:
        """What the product keeps of the weight; nothing before `prepare`."""
        return () if self._product is None else self._product.tensors

    @property
    def product(self) -> LinearFn | None:
        """What multiplies; None before `prepare`."""
        return self._product

    def prepare(self, formats: Sequence[WeightFormat], gate: str | None = None) -> bool:
        """Make the product and drop the parts; nothing is done a second time.

        Args:
            formats: floats are converted to the first of these that fits, unless they stay as
                loaded; what a checkpoint has quantised stays as it is.
            gate: the activation of a gated projection, for the product to apply if it can.

        Returns:
            Whether the product applies the gate.
        """
        if self._product is None:
            parts = self.parts
            self._drop_parts()
            if isinstance(self.format, FloatFormat) and not self.as_loaded:
                self.format, parts = convert(parts.pop("weight"), formats)
            gated = self.format.prepare_gated(parts, self.bias, gate) if gate else None
            self._product = gated or self.format.prepare(parts, self.bias)
            self._gated = gated is not None
        return self._gated

    def replace(self, weight_format: WeightFormat, product: LinearFn) -> None:
        """Take another format and product, once what was prepared has been observed."""
        assert self._product is not None, "prepare() comes first"
        assert not self._gated, "the layer counts on the product to apply its gate"
        self.format, self._product = weight_format, product

    def _drop_parts(self) -> None:
        for name in self._part_names:
            delattr(self, name)
        self._part_names = ()

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        assert self._product is not None, "prepare() comes first"
        return self._product(x, add)


class LayerPart(Module):
    """A mixer or a network; see `forward`."""

    def __init__(self, model: ModelSpec, index: int) -> None:
        super().__init__()
        layer = model.layers[index]
        self.index = index
        self.drops_rows = index == model.last_mixing_layer
        self.post_norm = make_norm((model.hidden,), model.norm, layer.post_norms)
        self.residual_scale = layer.residual_scale
        self.adds_in_product = not layer.post_norms and layer.residual_scale == 1

    def scale_by(self, scale: float) -> None:
        """Multiply what is added to the residual by this too."""
        self.residual_scale *= scale
        self.adds_in_product = self.adds_in_product and scale == 1

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

    def kept(self, step: StepContext) -> tuple[Any, ...]:
        """What the cache has of this layer: keys and values, or the parts of its states."""
        found = step.cache.layers[self.index]
        assert found is not None, "the cache was made for another model"
        return found

    def states(self, step: StepContext) -> tuple[Tensor, ...]:
        """The parts of this layer's states."""
        found = step.cache.states[self.index]
        assert found is not None, "the cache was made for another model"
        return found

    def going_on(self, inner: Tensor, residual: Tensor, step: StepContext) -> tuple[Tensor, Tensor]:
        """Both, of the rows that go on behind this mixer: all, or (R, ...) in the last layer."""
        return (inner[step.rows], residual[step.rows]) if self.drops_rows else (inner, residual)

    def joined(self, project: Linear, inner: Tensor, residual: Tensor, ops: Operations) -> Tensor:
        """The residual plus the projection of `inner`, in one pass if nothing lies between.

        The residual may be overwritten.
        """
        if self.adds_in_product:
            return cast(Tensor, project(inner, residual))
        return self.added(project(inner), residual, ops)

    def added(self, y: Tensor, residual: Tensor, ops: Operations) -> Tensor:
        """The residual plus y (T, D), what the part has made, normed and scaled as asked for."""
        y, scale = self.post_norm(y, ops), self.residual_scale
        return residual + (y if scale == 1 else y * scale)
