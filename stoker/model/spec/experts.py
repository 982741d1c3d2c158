"""A mixture of experts: many networks, of which each token takes a few."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import ModelError
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.ops.routing import Routing


@dataclass(frozen=True)
class ExpertsSpec(PartSpec):
    """A network: scale * (sum over a token's experts of weight * expert(x) + shared(x) + bias).

    Attributes:
        routing: how many experts there are, and how a token's are chosen and weighted.
        identities: so many of them, the last, give what they read and have no weights (LongCat).
        expert: each of them.
        router_bias: the router's linear map has a bias.
        weighs_input: the weights multiply what the experts read, not what they give (Llama 4).
        shared: what every token goes through besides.
        shared_gate: it is multiplied by the sigmoid of a linear map of x.
        latent: experts read and give vectors of this width, and linear maps lead there and back
            (Nemotron 3). The router and the shared expert read x itself.
        bias: a learned vector is added to the sum (JetMoE).
        scale: of the whole.
        normed: it goes through a norm then (A.X K1).
        kept: those that are loaded, ascending, if not all; the others are never chosen.

    Raises:
        ModelError: a token takes more experts than there are, or groups don't divide them.
    """

    routing: Routing
    expert: DenseSpec
    router_bias: bool = False
    weighs_input: bool = False
    shared: DenseSpec | None = None
    shared_gate: bool = False
    identities: int = 0
    latent: int | None = None
    bias: bool = False
    scale: float = 1.0
    normed: bool = False
    kept: tuple[int, ...] | None = None

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
        if routing.top_groups > routing.groups:
            raise ModelError(
                f"config.json sends a token to {routing.top_groups} groups of experts of "
                f"{routing.groups}"
            )
        each = routing.experts // routing.groups
        if routing.groups > 1 and each * routing.top_groups < routing.active:
            raise ModelError(
                f"config.json sends a token to {routing.active} experts, and the "
                f"{routing.top_groups} groups that it may take have {each} each"
            )

    @property
    def stored(self) -> int:
        """Experts of the checkpoint that have weights."""
        return self.routing.experts - self.identities

    @property
    def loaded(self) -> int:
        """Those of them that are loaded."""
        return self.stored if self.kept is None else len(self.kept)

    def product_weights(self, hidden: int) -> int:
        routing, gate = self.routing, self.shared_gate * hidden
        shared = self.shared.product_weights(hidden) + gate if self.shared else 0
        each = self.expert.product_weights(self.latent or hidden)
        maps = 2 * hidden * self.latent if self.latent else 0
        return hidden * routing.experts + routing.active * each + shared + maps

    def unread_weights(self, hidden: int, tokens: int) -> float:
        """Those of experts that no token takes, if all are as likely: 8 tokens that take 2 of 16
        leave 16 * (14/16)^8 = 5.5 of them."""
        routing = self.routing
        idle = (1 - routing.active / (self.loaded + self.identities)) ** tokens
        return self.loaded * idle * self.expert.product_weights(self.latent or hidden)

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        routing, width = self.routing, self.latent or hidden
        idle = (self.loaded - routing.active) * self.expert.product_weights(width)
        biases = self.loaded * self.expert.other_parameters(width, norm)
        shared = self.shared.other_parameters(hidden, norm) if self.shared else 0
        vectors = self.router_bias + (routing.correction is not None) + routing.gains
        around = self.bias * hidden + self.normed * norm.parameters(hidden)
        return idle + biases + shared + vectors * routing.experts + around


@dataclass(frozen=True)
class NormedExpertsSpec(ExpertsSpec):
    """Experts beside a dense network, `shared`, each between norms of its own (Gemma 4, 2026).

    The network before it has the layer's norm; experts and router read the residual through theirs.
    """

    def other_parameters(self, hidden: int, norm: NormSpec) -> int:
        return super().other_parameters(hidden, norm) + 4 * norm.parameters(hidden)
