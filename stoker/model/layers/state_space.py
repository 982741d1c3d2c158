"""The mixers of a `MambaSpec` and a `Mamba2Spec`.

Both project, convolve, scan and project back. The projections inside Mamba 1, which are small and
whose errors go into the exponents of decays, stay as they were loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model.layers.convolution import Taps
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.state_space import Mamba2Spec, MambaSpec
from stoker.model.step import StepContext
from stoker.ops.gated_norm import GateNorm
from stoker.ops.linear import LinearFn
from stoker.ops.select import Operations
from stoker.ops.selective_scan import ScanWeights, SelectiveInputs
from stoker.quant.choose import Formats
from stoker.quant.floats import FloatFormat


class Decays(Module):
    """What a scan does not take from its tokens.

    Attributes:
        a_log: of the negated rates of decay, (H,) or (N, C).
        d: how much of x goes past the state, (H,) or (C,).
        dt_bias: added to the steps, as d.
    """

    float32 = ("a_log", "d", "dt_bias")

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.a_log = _vector(*shape)
        self.d = _vector(count)
        self.dt_bias = _vector(count)

    def weights(self) -> ScanWeights:
        return ScanWeights(self.dt_bias, -torch.exp(self.a_log), self.d)


class GroupedLinear(Module):
    """A linear map for each group of channels, kept as it was loaded.

    Attributes:
        packed: what the products keep of the weight (G, outputs, inputs), once that was dropped.
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = _vector(groups, outputs, inputs)
        self.packed: tuple[Tensor, ...] = ()
        self._products: list[LinearFn] = []

    def prepare(self) -> None:
        """Make the products and drop the weight; nothing is done a second time."""
        if self.weight is not None:
            stacked, self.weight = self.weight, None
            stored = FloatFormat(stacked.dtype)
            self._products = [stored.prepare({"weight": one}, None) for one in stacked]
            self.packed = tuple(kept for one in self._products for kept in one.tensors)

    def forward(self, group: int, x: Tensor) -> Tensor:
        """The outputs (T, outputs) of a group for its inputs (T, inputs)."""
        return self._products[group](x)


class Mamba(LayerPart):
    """out(scan(silu(conv(x)))), gated in the scan, whose steps, b and c are made of its input."""

    def __init__(self, spec: MambaSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.group = model.state_group_of(index)
        self.sizes = [spec.rank, spec.state, spec.state]
        each = spec.channels // spec.groups
        self.in_proj = Linear(model.hidden, 2 * spec.channels, spec.bias)
        self.conv = Taps(spec.taps, spec.channels, spec.conv_bias)
        self.x_proj = GroupedLinear(spec.groups, each, sum(self.sizes))
        self.dt_proj = GroupedLinear(spec.groups, spec.rank, each)
        if spec.norm:
            self.dt_norm, self.b_norm, self.c_norm = (
                make_norm((size,), spec.norm) for size in self.sizes
            )
        self.decays = Decays((spec.state, spec.channels), spec.channels)
        self.out_proj = Linear(spec.channels, model.hidden, spec.bias)

    def prepare(self, formats: Formats) -> None:
        """As of any part; the projections inside stay as they are."""
        self.x_proj.prepare()
        self.dt_proj.prepare()
        super().prepare(formats)

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.weights = self.decays.weights()

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        spec, ops, plan = self.spec, step.ops, step.attention[self.group]
        inputs, states = self.states(step)
        x, z = torch.split(self.in_proj(x), spec.channels, dim=1)
        x = ops.causal_conv(x, self.conv.weight, self.conv.bias, inputs, plan, silu=True)
        steps, b, c = self._selected(x, ops)
        tokens = SelectiveInputs(x, steps, b, c, z)
        y = ops.selective_scan(tokens, self.weights, states, plan)
        return self.joined(self.out_proj, *self.going_on(y, residual, step), ops)

    def _selected(self, x: Tensor, ops: Operations) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (T, C), and b and c (T, G, N), of what the convolution gives."""
        if self.spec.groups == 1:
            found = self.x_proj(0, x).unsqueeze(1)
        else:
            parts = x.view(len(x), self.spec.groups, -1).transpose(0, 1).contiguous()
            selected = [self.x_proj(group, part) for group, part in enumerate(parts)]
            found = torch.stack(selected, dim=1)
        ranks, b, c = torch.split(found, self.sizes, dim=-1)
        if self.spec.norm:
            ranks, b, c = self.dt_norm(ranks, ops), self.b_norm(b, ops), self.c_norm(c, ops)
        elif self.spec.groups > 1:
            b, c = b.contiguous(), c.contiguous()
        steps = [self.dt_proj(group, ranks[:, group]) for group in range(self.spec.groups)]
        return (steps[0] if len(steps) == 1 else torch.cat(steps, dim=1)), b, c


class Mamba2(LayerPart):
    """out(norm(scan(silu(conv(x, b, c))) * silu(z))); one projection gives z, x, b, c and steps."""

    def __init__(self, spec: Mamba2Spec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.group = model.state_group_of(index)
        gate, *convolved, steps = spec.sizes
        self.sizes = [gate, sum(convolved), steps]
        self.in_proj = Linear(model.hidden, sum(spec.sizes), spec.bias)
        self.conv = Taps(spec.taps, sum(convolved), spec.conv_bias)
        self.decays = Decays((spec.heads,), spec.heads)
        self.norm = GateWeight(spec.channels) if spec.norm else None
        self.out_proj = Linear(spec.channels, model.hidden, spec.out_bias)

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.weights = self.decays.weights()
        self.scale: Tensor | None = None
        if self.spec.scales:
            pairs = zip(self.spec.sizes, self.spec.scales, strict=True)
            each = [torch.full((size,), one, dtype=dtype, device=device) for size, one in pairs]
            self.scale = torch.cat(each)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        spec, ops, plan = self.spec, step.ops, step.attention[self.group]
        inputs, states = self.states(step)
        x = self.in_proj(x)
        if self.scale is not None:
            x = x * self.scale
        z, xbc, steps = torch.split(x, self.sizes, dim=1)
        xbc = ops.causal_conv(xbc, self.conv.weight, self.conv.bias, inputs, plan, silu=True)
        y = ops.ssd_scan(xbc, steps, self.weights, spec.groups, spec.limit, states, plan)
        weight = self.norm.weight if self.norm is not None else None
        y = ops.gated_norm(y, z, weight, spec.norm or _NO_NORM)
        return self.joined(self.out_proj, *self.going_on(y, residual, step), ops)


class GateWeight(Module):
    """The weight of the norm behind a gate."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = _vector(size)


_NO_NORM = GateNorm(1, 0.0)


def _vector(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)
