"""A mixture of experts: many networks, of which each token takes a few."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import ModelError
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.ops.routing import Routing


@dataclass(frozen=True)
class ExpertsSpec(PartSpec):
    """A network: sum over a token's experts of weight * expert(x), plus a shared expert.

    Attributes:
        routing: how many experts there are, and how a token's are chosen and weighted.
        expert: each of them.
        router_bias: the router's linear map has a bias.
        weighs_input: the weights multiply what the experts read, not what they give (Llama 4).
        shared: what every token goes through besides.
        shared_gate: it is multiplied by the sigmoid of a linear map of x.

    Raises:
        ModelError: a token takes more experts than there are, or groups don't divide them.
    """

    routing: Routing
    expert: DenseSpec
    router_bias: bool = False
    weighs_input: bool = False
    shared: DenseSpec | None = None
    shared_gate: bool = False

    def __post_init__(self) -> None:
        routing = self.routing
        if routing.active > routing.experts:
            raise ModelError(
                f"config.json sends a token to {routing.active} experts of {routing.experts}"
            )
        if routing.experts % routing.groups:
            raise ModelError(
                f"{routing.experts} experts in config.json don't form {routing.groups} equal groups"
            )

    def product_weights(self, hidden: int) -> int:
        routing, gate = self.routing, self.shared_gate * hidden
        shared = self.shared.product_weights(hidden) + gate if self.shared else 0
        each = self.expert.product_weights(hidden)
        return hidden * routing.experts + routing.active * each + shared

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        routing = self.routing
        idle = (routing.experts - routing.active) * self.expert.product_weights(hidden)
        biases = routing.experts * self.expert.other_parameters(hidden, norm)
        shared = self.shared.other_parameters(hidden, norm) if self.shared else 0
        return idle + biases + shared + (self.router_bias + routing.corrected) * routing.experts
