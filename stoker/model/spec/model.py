"""A layer of a mixer and a network, and a decoder of layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from stoker.model.cache_spec import AnyCacheSpec, CacheGroup, cache_groups
from stoker.model.rope import Rope
from stoker.model.spec.networks import HeadMapSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.spec.shared import SharedBlockSpec
from stoker.model.spec.streams import StreamsSpec
from stoker.model.spec.token_inputs import TokenInputSpec, TokenInputsSpec


@dataclass(frozen=True)
class LayerSpec:
    """x += post(mixer(pre(x))); x += post(ffn(pre(x))), with norms pre and post or without.

    Then x += post(token_input(x)) and x *= a learned number, where there are those. With a shared
    block it is x += mixer(pre(x + shared(x))), see `SharedBlockSpec`.

    A part that is None is left out, with its norms.

    Attributes:
        mixer: lets tokens look at others; a class of `layers.kinds.MIXERS`.
        ffn: looks at each token alone; a class of `layers.kinds.NETWORKS`.
        mixer_norm: whether the mixer has its norm before it, where parts have such.
        sum_norms: x itself goes through a norm after each sum.
        parallel: mixer and feed-forward network both read the layer's input: each through a
            norm of its own ("two norms") or both through one ("one norm").
        residual_scale: multiplies what is added to x.
        normed_residual: x becomes alpha * pre(x) + beta * part(pre(x)) instead, with an alpha and a
            beta of the mixer and of the network (MiniMax-01, 2025).
        token_input: takes in the layer's own input of each token.
        output_scale: a learned number multiplies x at the end.
        streams: the layer computes on one of several streams.
        weighted_residual: learned numbers multiply x before what a part makes is added.
        shared: a block, of weights that layers share, adds to what the mixer reads.
    """

    mixer: PartSpec | None
    ffn: PartSpec | None
    pre_norms: bool = True
    post_norms: bool = False
    mixer_norm: bool = True
    sum_norms: bool = False
    parallel: Literal["one norm", "two norms"] | None = None
    residual_scale: float = 1.0
    normed_residual: tuple[tuple[float, float], tuple[float, float]] | None = None
    token_input: TokenInputSpec | None = None
    output_scale: bool = False
    streams: StreamsSpec | None = None
    weighted_residual: bool = False
    shared: SharedBlockSpec | None = None

    def __post_init__(self) -> None:
        if self.parallel:  # both would otherwise read what the first overwrites
            assert self.mixer is not None, "parallel layers have a mixer"
            assert self.pre_norms, "parallel layers have norms before their parts"
        assert not (self.normed_residual and self.parallel), "what is kept would be two things"

    @property
    def parts(self) -> tuple[PartSpec, ...]:
        """The mixer, the network and what else has weights, those that there are."""
        parts = (self.shared, self.mixer, self.ffn, self.token_input, self.streams)
        return tuple(part for part in parts if part is not None)

    def cache_specs(self) -> tuple[AnyCacheSpec, ...]:
        """What the layer keeps of each token and of a sequence."""
        parts = (self.mixer, self.shared)
        return tuple(one for part in parts if part is not None for one in part.cache_specs())

    def product_weights(self, hidden: int) -> int:
        """Weights that each token is multiplied by."""
        return sum(part.product_weights(hidden) for part in self.parts)

    def parameters(self, hidden: int, norm: NormSpec) -> int:
        """All parameters of the layer, its norms included."""
        inside = sum(part.other_parameters(hidden, norm) for part in self.parts)
        parts = (self.mixer is not None) + (self.ffn is not None)
        norms = (self.pre_norms + self.post_norms + self.sum_norms) * parts
        norms -= self.parallel == "one norm" and self.ffn is not None
        norms -= self.pre_norms and self.mixer is not None and not self.mixer_norm
        norms += self.post_norms and self.token_input is not None
        inside += norms * norm.parameters(hidden) + self.output_scale
        inside += self.weighted_residual * 2 * hidden
        return self.product_weights(hidden) + inside

    @property
    def flops_per_pair(self) -> int:
        """FLOPs for a query and a key that it sees."""
        return sum(part.flops_per_pair for part in self.parts)

    @property
    def state_flops(self) -> int:
        """FLOPs for a token where it meets the sequence's state."""
        return sum(part.state_flops for part in self.parts)


@dataclass(frozen=True)
class LearnedPositions:
    """A table of `rows` vectors; a token at position p adds row p + offset to its embedding."""

    rows: int
    offset: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """A decoder: embedding, layers, final norm, head.

    Attributes:
        hidden: width of the residual stream.
        vocab: rows of the embedding and of the head.
        context: most positions the model was made for.
        tied_head: the head is the embedding.
        head_bias: a number is added to each logit.
        head_map: what lies between the final norm and the head.
        labels: rows of a classification head, 0 for no head at all; None: the head gives
            logits over the vocabulary.
        embedding_width: of the embedding, the head and the final hidden states, where it is
            not `hidden`; linear maps lead into the layers and out of them.
        embedding_norm, final_norm: whether there is one, before the first layer and behind the
            last.
        final_eps: of the norm behind the last layer, where it isn't that of the others.
        embedding_scale: multiplies embeddings.
        scales_vectors: it also multiplies what a prompt has in their place.
        logit_scale, logit_softcap: logits become logit * scale, then soft-capped.
        token_inputs: what layers read of each token beside the residual.
    """

    hidden: int
    vocab: int
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    context: int
    tied_head: bool
    labels: int | None = None
    embedding_width: int | None = None
    embedding_norm: bool = False
    final_norm: bool = True
    final_eps: float | None = None
    embedding_scale: float = 1.0
    scales_vectors: bool = False
    positions: LearnedPositions | None = None
    head_bias: bool = False
    head_map: HeadMapSpec | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    token_inputs: TokenInputsSpec | None = None

    @property
    def last_norm(self) -> NormSpec:
        """Behind the last layer."""
        return self.norm if self.final_eps is None else replace(self.norm, eps=self.final_eps)

    @property
    def vector_width(self) -> int | None:
        """Width of vectors that a prompt has in place of embeddings; None: it can't have them.

        Nothing says what token inputs a vector would have.
        """
        return None if self.token_inputs else self.embedding_width or self.hidden

    @property
    def streams(self) -> StreamsSpec | None:
        """The residual streams, if there are several."""
        return self.layers[0].streams if self.layers else None

    @property
    def reads_embeddings(self) -> bool:
        """Whether layers read the embeddings of tokens beside the residual."""
        return any(layer.shared for layer in self.layers)

    @property
    def looked_up(self) -> int:
        """Parameters in tables of which a token reads one row, and that are nothing else."""
        embedding = 0 if self.tied_head else self.vocab * (self.embedding_width or self.hidden)
        inputs = self.token_inputs.table(len(self.layers)) if self.token_inputs else 0
        return embedding + inputs

    @property
    def around_weights(self) -> int:
        """Weights outside layers and head that each token is multiplied by on its way in."""
        width = self.embedding_width or 0
        inputs = self.token_inputs
        made = inputs.product_weights(len(self.layers), self.hidden) if inputs else 0
        streams = self.streams.around(self.hidden) if self.streams else 0
        return self.hidden * width + made + streams

    @cached_property
    def cache_groups(self) -> tuple[CacheGroup, ...]:
        """The layers that cache alike, group by group."""
        return cache_groups(layer.cache_specs() for layer in self.layers)

    @property
    def keeps_state(self) -> bool:
        """Whether a layer keeps a state of each sequence."""
        return any(group.keeps_state for group in self.cache_groups)

    def group_of(self, layer: int) -> int:
        """The cache group of a layer that keeps something; that of its tokens if it has two."""
        return next(n for n, group in enumerate(self.cache_groups) if layer in group.layers)

    def state_group_of(self, layer: int) -> int:
        """The cache group of the states of a layer that keeps one."""
        groups = enumerate(self.cache_groups)
        return next(n for n, group in groups if group.keeps_state and layer in group.layers)

    @cached_property
    def ropes(self) -> tuple[Rope | None, ...]:
        """The rotary embeddings of all layers, each once, in the order of first use."""
        found = (rope for layer in self.layers for part in layer.parts for rope in part.ropes)
        return tuple(dict.fromkeys(found))

    @cached_property
    def last_mixing_layer(self) -> int:
        """The last layer in which a token sees others; -1 if there is none.

        Behind it only the rows that are drawn from are computed.
        """
        mixing = (n for n, layer in enumerate(self.layers) if layer.mixer and layer.mixer.mixes)
        return max(mixing, default=-1)

    @property
    def special_scores(self) -> bool:
        """Whether scores of a layer are soft-capped, chunked or fall with distance."""
        return any(part.special_scores for layer in self.layers for part in layer.parts)

    def parameters(self) -> int:
        """The number of parameters, of all layers and around them."""
        width = self.embedding_width or self.hidden
        around = self.around_weights + self.hidden * (self.embedding_width or 0)
        if self.token_inputs:
            around += self.token_inputs.table(len(self.layers))
            around += self.norm.parameters(self.token_inputs.width)
        rows = self.vocab if self.labels is None else self.labels
        head = rows * (self.head_bias + (0 if self.tied_head else width))
        head += self.head_map.parameters(self.hidden, self.norm) if self.head_map else 0
        positions = self.positions.rows * self.hidden if self.positions else 0
        norms = self.embedding_norm + self.final_norm
        norm = norms * self.norm.parameters(self.hidden)
        layers = sum(layer.parameters(self.hidden, self.norm) for layer in self.layers)
        return self.vocab * width + around + positions + layers + norm + head
