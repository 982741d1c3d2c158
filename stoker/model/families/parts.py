"""What families have in common: the plain decoder, its attention, its weight names.

A family takes these and changes what differs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stoker.errors import ModelError
from stoker.model.families.fields import REQUIRED, Fields
from stoker.model.families.rope import context, rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import LayerSpec, ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.weights import Names, names

# a config's name of an activation -> ours (ops/activation.py)
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        models: what is published in this architecture, for the documentation.
        spec: from the config to the spec.
        names: the checkpoint's tensors for each parameter.
        about: what sets the family apart, for the documentation.
        base: beginning of tensor names that some checkpoints leave out.
        ignored: endings of tensor names that hold nothing to load.
        renamed: other beginnings of tensor names, and what `names` has in their place.
        beside: beginnings of tensor names of parts that are not loaded, such as a model of images.
        drafts: layers behind the last draft further tokens, and are not loaded (multi-token
            prediction).
    """

    models: str
    spec: Callable[[Fields], ModelSpec]
    names: Names
    about: str
    base: str = "model."
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    renamed: tuple[tuple[str, str], ...] = ()
    beside: tuple[str, ...] = ()
    drafts: bool = False

    def spellings(self, stored: str) -> list[str]:
        """What `names` may call a tensor of the checkpoint."""
        found = [stored, self.base + stored]  # a backbone saved on its own leaves the prefix out
        return found + [
            ours + stored.removeprefix(theirs)
            for theirs, ours in self.renamed
            if stored.startswith(theirs)
        ]

    def passes_over(self, stored: str, layers: int) -> bool:
        """Whether a tensor of a checkpoint whose model has so many layers is not loaded."""
        if stored.endswith(self.ignored) or stored.startswith(self.beside):
            return True
        found = re.match(r"(?:model\.)?layers\.(\d+)\.", stored) if self.drafts else None
        return found is not None and int(found[1]) >= layers


def attention(
    f: Fields, *, theta: float = 10000.0, partial: float = 1.0, kind: str = "", **changes: Any
) -> AttentionSpec:
    """Attention with the usual fields of the config; `changes` are fields of `AttentionSpec`."""
    heads, hidden = f.size("num_attention_heads"), f.size("hidden_size")
    head_dim = f.size("head_dim", None) or head_size(hidden, heads)
    bias = f.flag("attention_bias")
    mixer = AttentionSpec(
        heads=heads,
        kv_heads=f.size("num_key_value_heads", heads),
        head_dim=head_dim,
        scale=1.0 / math.sqrt(head_dim),
        rope=rope(f, head_dim, theta=theta, partial=partial, kind=kind),
        qkv_bias=bias,
        out_bias=bias,
    )
    return replace(mixer, **changes)


def head_size(hidden: int, heads: int) -> int:
    """The size of a head where the config names none."""
    if heads > hidden:
        raise ModelError(
            f"{heads} attention heads in config.json leave no size for each "
            f"(num_attention_heads, hidden_size {hidden})"
        )
    return hidden // heads


def activation(f: Fields, name: str = "hidden_act", default: str = "silu") -> str:
    return ACTIVATIONS[f.choice(name, ACTIVATIONS, "activation", default)]


def gated(f: Fields) -> DenseSpec:
    """The usual feed-forward network."""
    return DenseSpec(f.size("intermediate_size"), activation(f), bias=f.flag("mlp_bias"))


def plain(size: int, kind: str, bias: bool = True) -> DenseSpec:
    """A network of two projections."""
    return DenseSpec(size, kind, gated=False, bias=bias)


def rms(f: Fields) -> NormSpec:
    return NormSpec("rms", f.number("rms_norm_eps"))


def decoder(
    f: Fields,
    mixers: PartSpec | Sequence[PartSpec | None],
    *,
    ffn: PartSpec | Sequence[PartSpec | None] | None = None,
    norm: NormSpec | None = None,
    tied: bool = False,
    layer: dict[str, Any] | None = None,
    **changes: Any,
) -> ModelSpec:
    """A decoder with the usual fields of the config.

    Args:
        f: the config.
        mixers: of each layer, or one for all.
        ffn: of each layer, or one for all; the usual one if None.
        norm: instead of the usual one.
        tied: whether the head is the embedding if the config does not say.
        layer: fields of each `LayerSpec`.
        changes: fields of `ModelSpec`.
    """
    count = f.layers()
    every = [mixers] * count if isinstance(mixers, PartSpec) else mixers
    network = gated(f) if ffn is None else ffn
    networks = [network] * count if isinstance(network, PartSpec) else network
    fields: dict[str, Any] = {
        "hidden": f.size("hidden_size"),
        "vocab": f.size("vocab_size"),
        "layers": tuple(
            LayerSpec(*parts, **(layer or {})) for parts in zip(every, networks, strict=True)
        ),
        "norm": norm or rms(f),
        "tied_head": f.flag("tie_word_embeddings", tied),
        **changes,
    }
    return ModelSpec(**{"context": fields.get("context") or context(f), **fields})


def layer_types(f: Fields, sliding: Callable[[int], bool]) -> list[bool]:
    """Whether each layer has a window: by layer_types, or else by `sliding` of its index."""
    count = f.layers()
    kinds = f.words("layer_types", ("full_attention", "sliding_attention"), "layer type", count)
    if kinds is None:
        return [sliding(index) for index in range(count)]
    return [kind == "sliding_attention" for kind in kinds]


def with_windows(
    f: Fields, mixer: AttentionSpec, slides: list[bool], default: Any = REQUIRED
) -> list[AttentionSpec]:
    """The mixer for each layer, with sliding_window where it slides."""
    window = f.size("sliding_window", default) if any(slides) else None
    return [replace(mixer, window=window) if slide else mixer for slide in slides]


def both(table: dict[str, str]) -> dict[str, str]:
    """Weight and bias of each entry."""
    return {f"{a}.{end}": f"{b}.{end}" for a, b in table.items() for end in ("weight", "bias")}


OUTER = {
    "embedding": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "norm.bias": "model.norm.bias",
    "head.weight": "lm_head.weight",
}
PRE_NORMS = {
    "layers.{i}.mixer_norm.weight": "input_layernorm.weight",
    "layers.{i}.mixer_norm.bias": "input_layernorm.bias",
    "layers.{i}.ffn_norm.weight": "post_attention_layernorm.weight",
    "layers.{i}.ffn_norm.bias": "post_attention_layernorm.bias",
}
ATTENTION = {
    "layers.{i}.mixer.qkv.weight": "q_proj.weight k_proj.weight v_proj.weight",
    "layers.{i}.mixer.qkv.bias": "q_proj.bias k_proj.bias v_proj.bias",
    "layers.{i}.mixer.out.weight": "o_proj.weight",
    "layers.{i}.mixer.out.bias": "o_proj.bias",
    "layers.{i}.mixer.q_norm.weight": "q_norm.weight",
    "layers.{i}.mixer.k_norm.weight": "k_norm.weight",
}
FFN = {
    "layers.{i}.ffn.up.weight": "gate_proj.weight up_proj.weight",
    "layers.{i}.ffn.up.bias": "gate_proj.bias up_proj.bias",
    "layers.{i}.ffn.down.weight": "down_proj.weight",
    "layers.{i}.ffn.down.bias": "down_proj.bias",
}
LAYER = "model.layers.{i}."
LLAMA: Names = {
    **names("", OUTER),
    **names(LAYER, PRE_NORMS),
    **names(LAYER + "self_attn.", ATTENTION),
    **names(LAYER + "mlp.", FFN),
}
