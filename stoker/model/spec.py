"""A model as data: layers with their own sizes, and nothing of any family's name.

A family turns its Hugging Face config into a `ModelSpec` (families/); one transformer
executes any of them (transformer.py). The work of a step is counted from it (work.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stoker.model.rope import Growth, Rope


@dataclass(frozen=True)
class NormSpec:
    """How the model normalises: by root mean square, or to mean 0 and variance 1 ("layer")."""

    kind: Literal["rms", "layer"]
    eps: float
    bias: bool = False


@dataclass(frozen=True)
class AttentionSpec:
    """A mixer: softmax attention with grouped key-value heads.

    Attributes:
        scale: of the scores, before softmax.
        rope: none for a layer that is blind to positions, or has them in its input.
        qk_norm: norms of queries and keys: over each head with weights (head_dim,) that all
            heads share ("head") or (heads, head_dim) ("own"), or over all heads at once
            ("projection").
        window: keys seen, counted back from the query's own; all if none.
        softcap: scores become softcap * tanh(score / softcap).
        growth: of the queries with their position.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["head", "own", "projection"] | None = None
    window: int | None = None
    softcap: float | None = None
    growth: Growth | None = None


@dataclass(frozen=True)
class DenseSpec:
    """A feed-forward network: down(act(gate(x)) * up(x)), or down(act(up(x))) if not gated."""

    size: int
    activation: str = "silu"
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True)
class LayerSpec:
    """x += post(mixer(pre(x))); x += post(ffn(pre(x))), with norms pre and post or without.

    Attributes:
        sum_norms: x itself goes through a norm after each sum.
        parallel: mixer and feed-forward network both read the layer's input: each through a
            norm of its own ("two norms") or both through one ("one norm").
        residual_scale: multiplies what is added to x.
    """

    mixer: AttentionSpec
    ffn: DenseSpec
    pre_norms: bool = True
    post_norms: bool = False
    sum_norms: bool = False
    parallel: Literal["one norm", "two norms"] | None = None
    residual_scale: float = 1.0


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
        labels: rows of a classification head, 0 for no head at all; None: the head gives
            logits over the vocabulary.
        embedding_width: of the embedding, the head and the final hidden states, where it is
            not `hidden`; linear maps lead into the layers and out of them.
        final_norm: whether there is one.
        embedding_scale: multiplies embeddings.
        logit_scale, logit_softcap: logits become logit * scale, then soft-capped.
    """

    hidden: int
    vocab: int
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    context: int
    tied_head: bool
    labels: int | None = None
    embedding_width: int | None = None
    final_norm: bool = True
    embedding_scale: float = 1.0
    positions: LearnedPositions | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
