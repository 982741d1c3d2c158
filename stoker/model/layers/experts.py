"""The network of an `ExpertsSpec`: a router, stacked experts, and what every token goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from stoker.model import roles
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.layers.networks import gate_up_sizes
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.roles import Role
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.step import StepContext
from stoker.ops.experts import ExpertsFn, ExpertWeights
from stoker.ops.linear import LinearFn
from stoker.ops.routing import Routes, prepare_route
from stoker.quant.choose import Formats, choose_formats
from stoker.quant.format import make_experts, make_product


class Router(Module):
    """Logits of experts: a linear map in float32, with what is added for the choice.

    Its parameters stay in float32 whatever the model computes in: rounded corrections and logits
    would send tokens to other experts.

    Attributes:
        packed: what is kept of the weight when `prepare` has dropped the parameter.
    """

    float32 = ("weight", "bias", "correction", "gains")

    def __init__(self, spec: ExpertsSpec, hidden: int) -> None:
        super().__init__()
        count = spec.routing.experts
        self.routing = spec.routing
        self.weight: nn.Parameter | None = parameter(count, hidden)
        self.bias = parameter(count) if spec.router_bias else None
        self.correction = parameter(count) if spec.routing.correction else None
        self.gains = parameter(count) if spec.routing.gains else None
        self.kept, self.stored = spec.kept, spec.stored
        self._slots: Tensor | None = None
        self._correction: Tensor | None = None
        self.packed: tuple[Tensor, ...] = ()
        self._product: LinearFn | None = None
        self._route: Callable[..., Routes] | None = None

    def prepare(self) -> None:
        """Make the product, in float32 whatever the other weights become, and drop the weight."""
        if self.weight is None:
            return
        weight, self.weight = self.weight, None
        bias, self._correction = self.bias, self.correction
        if self.kept is not None:
            barred, self._slots = _dropped(
                self.kept, self.stored, self.routing.experts, weight.device
            )
            bias, self._correction = (
                nn.Parameter(barred if one is None else one + barred, requires_grad=False)
                for one in (bias, self.correction)
            )
        plain = choose_formats("auto", torch.float32, weight.device)
        self._product = make_product(weight, plain.projections, bias)
        self.packed = self._product.tensors
        self.send_to(self.routing.active)

    def send_to(self, active: int) -> None:
        """Let each token take so many experts from now on."""
        assert self._product is not None, "prepare() comes first"
        self.routing = replace(self.routing, active=active)
        self._route = prepare_route(self.routing, self._product.tensors[0].device)

    def observe(self, seen: Callable[[Routes], None]) -> None:
        """Show `seen` where tokens go from now on, by the numbers of the checkpoint's experts."""
        route = self._route
        assert route is not None, "prepare() comes first"

        def observed(*given: Tensor | None) -> Routes:
            routes: Routes = route(*given)
            seen(routes)
            return routes

        self._route = observed

    def forward(self, x: Tensor) -> Routes:
        assert self._product is not None, "prepare() comes first"
        assert self._route is not None
        routes = self._route(self._product(x.float()), self._correction, self.gains)
        if self._slots is None:
            return routes
        return Routes(self._slots[routes.experts], routes.weights)


class StackedLinear(Module):
    """The weights (E, outputs, inputs) and biases (E, outputs) of one projection of all experts.

    Attributes:
        role: what the outputs of each are.
        total: experts in the checkpoint that have weights.
        idle: others, behind them; some checkpoints have tensors of these too.
        kept: those of them that are loaded, E, if not all.
        packed: what the layer keeps of the weight when it has taken it.
    """

    def __init__(
        self, spec: ExpertsSpec, inputs: int, outputs: int, role: Role = roles.PLAIN
    ) -> None:
        super().__init__()
        experts, bias = spec.loaded, spec.expert.bias
        self.role = role
        self.total, self.idle, self.kept = spec.stored, spec.identities, spec.kept
        self.experts, self.inputs, self.outputs = experts, inputs, outputs
        self.weight: nn.Parameter | None = parameter(experts, outputs, inputs)
        self.bias = parameter(experts, outputs) if bias else None
        self.packed: tuple[Tensor, ...] = ()

    def take_weight(self) -> Tensor:
        """The weight, which is a parameter no longer."""
        weight, self.weight = self.weight, None
        assert weight is not None
        return weight


class SharedExpert(Module):
    """What every token goes through beside its own experts, behind a gate or not."""

    def __init__(self, spec: DenseSpec, hidden: int, gated: bool) -> None:
        super().__init__()
        self.spec = spec
        outputs, role = gate_up_sizes(spec)
        self.up = Linear(hidden, outputs, spec.bias, role)
        self.down = Linear(spec.size, hidden, spec.bias)
        self.gate = Linear(hidden, 1) if gated else None
        self.fused = False

    def prepare(self, formats: Formats) -> None:
        """Convert the projection up, which applies the activation itself if its format can."""
        gate = self.spec.activation if self.spec.gated else None
        self.fused = self.up.prepare(formats.projections, gate)

    def forward(self, x: Tensor, step: StepContext, add: Tensor | None) -> Tensor:
        """What it makes of x (T, D), plus `add`, whose memory may be taken."""
        inner: Tensor = self.up(x)
        if not self.fused:
            inner = step.ops.activate(inner, self.spec.activation, self.spec.gated)
        if self.gate is None:
            return cast(Tensor, self.down(inner, add))
        y: Tensor = self.down(inner) * step.ops.activate(self.gate(x), "sigmoid", False)
        return y if add is None else y.add_(add)


class Experts(LayerPart):
    """The sum of a token's experts, weighted by the router, and of the shared one."""

    def __init__(self, spec: ExpertsSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        expert, width = spec.expert, spec.latent or model.hidden
        outputs, role = gate_up_sizes(expert)
        self.router = Router(spec, model.hidden)
        self.expert_up = StackedLinear(spec, width, outputs, role)
        self.expert_down = StackedLinear(spec, expert.size, width)
        self.to_latent = Linear(model.hidden, width) if spec.latent else None
        self.from_latent = Linear(width, model.hidden) if spec.latent else None
        self.bias = parameter(model.hidden) if spec.bias else None
        self.shared = None
        if spec.shared is not None:
            self.shared = SharedExpert(spec.shared, model.hidden, spec.shared_gate)
        self.sum_norm = make_norm((model.hidden,), model.norm, spec.normed)
        self._run: ExpertsFn | None = None

    def prepare(self, formats: Formats) -> None:
        """As of any part; the experts become one function."""
        if self._run is None:
            expert = self.spec.expert
            weights = ExpertWeights(
                self.expert_up.take_weight(),
                self.expert_down.take_weight(),
                self.expert_up.bias,
                self.expert_down.bias,
                expert.activation,
                expert.gated,
                self.spec.weighs_input,
                expert.limit,
                expert.shift,
            )
            self._run = make_experts(weights, formats.projections)
            self.expert_up.packed = self._run.up_tensors
            self.expert_down.packed = self._run.down_tensors
            self.router.prepare()
            if self.shared is not None:
                self.shared.prepare(formats)
        super().prepare(formats)

    @property
    def adds_in_sum(self) -> bool:
        """Whether the residual is added with the experts: nothing is done to their sum."""
        return self.adds_in_product and self.spec.scale == 1 and not self.spec.normed

    def routed(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """What the experts of the rows x (T, D) give, plus `add`, whose memory may be taken."""
        assert self._run is not None, "prepare() comes first"
        routes = self.router(x)
        if self.to_latent is None or self.from_latent is None:
            return self._run(x, routes, add)
        return cast(Tensor, self.from_latent(self._run(self.to_latent(x), routes), add))

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        total = residual if self.adds_in_sum else None
        if self.shared is not None:
            if x is total:  # without a norm before: what the experts read may not be overwritten
                total = total.clone()
            total = self.shared(x, step, total)
        y = self.routed(x, total)
        if self.bias is not None:
            y = y + self.bias
        if self.adds_in_sum:
            return y
        if self.spec.scale != 1:
            y = y * self.spec.scale
        return self.added(self.sum_norm(y, step.ops), residual, step.ops)


def _dropped(
    kept: tuple[int, ...], stored: int, experts: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each expert what bars it, 0 or minus infinity, and its place among those that are loaded.

    Experts without weights, the last, come after those. With 2 and 3 kept of 4, and one more:

        barred    -inf  -inf  0  0  0
        place        0     0  0  1  2    barred experts are chosen by rows of NaN alone
    """
    staying = (*kept, *range(stored, experts))
    barred = torch.full((experts,), -torch.inf, device=device)
    places = torch.zeros(experts, dtype=torch.int64, device=device)
    barred[list(staying)] = 0.0
    places[list(staying)] = torch.arange(len(staying), device=device)
    return barred, places


def parameter(*shape: int) -> nn.Parameter:
    """An empty one."""
    return nn.Parameter(torch.empty(shape), requires_grad=False)
