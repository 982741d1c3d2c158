"""A layer: norms around a mixer and a network, either of which may be absent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model.layers.kinds import MIXERS, NETWORKS
from stoker.model.layers.token_inputs import TokenInput
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext
from stoker.quant.choose import Formats


class Block(Module):
    """A layer; see `LayerSpec` for what it computes."""

    def __init__(self, model: ModelSpec, index: int) -> None:
        super().__init__()
        layer = model.layers[index]
        self.parallel, self.sum_norms = layer.parallel, layer.sum_norms
        self.drops_rows = index == model.last_mixing_layer
        shape, norm, pre = (model.hidden,), model.norm, layer.pre_norms
        self.mixer = self.ffn = None
        if layer.mixer is not None:
            self.mixer_norm = make_norm(shape, norm, pre and layer.mixer_norm)
            self.mixer = MIXERS[type(layer.mixer)](layer.mixer, model, index)
            self.mixer_sum_norm = make_norm(shape, norm, layer.sum_norms)
        if layer.ffn is not None:
            self.ffn_norm = make_norm(shape, norm, pre and layer.parallel != "one norm")
            self.ffn = NETWORKS[type(layer.ffn)](layer.ffn, model, index)
            self.ffn_sum_norm = make_norm(shape, norm, layer.sum_norms)
        self.kept = None  # shares of what goes into the mixer and into the network
        if layer.normed_residual:
            pairs = zip((self.mixer, self.ffn), layer.normed_residual, strict=True)
            for part, (_, scale) in pairs:
                if part is not None:
                    part.scale_by(scale)
            self.kept = [share for share, _ in layer.normed_residual]
        self.token_input = self.scale = None
        if layer.token_input is not None:
            self.token_input = TokenInput(layer.token_input, model, index)
        if layer.output_scale:
            self.scale = nn.Parameter(torch.empty(1), requires_grad=False)

    def prepare(self, formats: Formats) -> None:
        """Convert the weights, which are then dropped; twice is fine."""
        for part in (self.mixer, self.ffn, self.token_input):
            if part is not None:
                part.prepare(formats)

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        """The layer's output (T, D), or (R, D) if only the rows that go on are wanted.

        Parts are called by `forward`, which lets them drop their input as soon as it is used: what
        comes next then lies in memory that is still in the processor's cache.
        """
        ops, beside = step.ops, None
        if self.kept is not None:
            return self._on_normed(x, step, self.kept)
        if self.mixer is not None:
            if self.parallel and self.ffn is not None:  # before the sum, which may overwrite x
                normed = self.mixer_norm(x, ops)
                beside = x if self.parallel == "two norms" else normed
                beside = beside[step.rows] if self.drops_rows else beside
                beside = self.ffn_norm(beside, ops)
                x = self.mixer.forward(normed, step, x)
            else:
                x = self.mixer.forward(self.mixer_norm(x, ops), step, x)
            if self.sum_norms:
                x = self.mixer_sum_norm(x, ops)
        if self.ffn is not None:
            x = self.ffn.forward(self.ffn_norm(x, ops) if beside is None else beside, step, x)
            if self.sum_norms:
                x = self.ffn_sum_norm(x, ops)
        if self.token_input is not None:
            x = self.token_input.forward(x, step, x)
        return x if self.scale is None else x * self.scale

    def _on_normed(self, x: Tensor, step: StepContext, kept: list[float]) -> Tensor:
        """As `forward`, where the residual is what goes into a part, or a share of it."""
        parts = ((self.mixer, "mixer_norm"), (self.ffn, "ffn_norm"))
        for (part, norm), share in zip(parts, kept, strict=True):
            if part is not None:
                x = getattr(self, norm)(x, step.ops)
                x = part.forward(x, step, x * share if share != 1 else x)
        return x
