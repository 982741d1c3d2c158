"""ModernBERT's decoder, of which Ettin's are: a layer norm less, and a map before the head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    Family,
    activation,
    attention,
    both,
    decoder,
    layer_types,
)
from stoker.model.families.rope import rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec, HeadMapSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import names


def _modernbert(f: Fields) -> ModelSpec:
    every = f.size("global_attn_every_n_layers", 3)
    slides = layer_types(f, lambda index: index % every != 0)
    size = f.size("intermediate_size", 1152)
    kind = activation(f, "hidden_activation", "gelu")
    spec = decoder(
        f,
        [_mixer(f, slide) for slide in slides],
        ffn=DenseSpec(size, kind, bias=f.flag("mlp_bias")),
        norm=NormSpec("layer", f.number("norm_eps", 1e-5), bias=f.flag("norm_bias")),
        tied=True,
        embedding_norm=True,
        head_bias=f.flag("decoder_bias", True),
        head_map=HeadMapSpec(
            activation(f, "classifier_activation", "gelu"), f.flag("classifier_bias")
        ),
    )
    first, *others = spec.layers
    return replace(spec, layers=(replace(first, mixer_norm=False), *others))


def _mixer(f: Fields, slides: bool) -> AttentionSpec:
    """Of layers with a window or without, which differ in their rotary embedding too."""
    kind, field, theta = "full_attention", "global_rope_theta", 160_000.0
    changes: dict[str, Any] = {}
    if slides:
        kind, field, theta = "sliding_attention", "local_rope_theta", 10_000.0
        # half of it, as in the encoder, which sees so many tokens on each side
        changes = {"window": f.size("local_attention", 128) // 2}
    own = Fields({**f.values, "rope_theta": f.number(field, theta, above=1)}, f.architecture)
    mixer = attention(f, **changes)
    return replace(mixer, rope=rope(own, mixer.head_dim, kind=kind))


MODERNBERT = {
    **names(
        "model.",
        {
            "embedding": "embeddings.tok_embeddings.weight",
            **both({"embedding_norm": "embeddings.norm", "norm": "final_norm"}),
        },
    ),
    **names("", both({"head": "decoder", "head_map.norm": "lm_head.norm"})),
    **names("", both({"head_map.dense": "lm_head.dense"})),
    **names(
        LAYER,
        {
            **both({"layers.{i}.mixer_norm": "attn_norm", "layers.{i}.ffn_norm": "mlp_norm"}),
            **both({"layers.{i}.mixer.out": "attn.Wo"}),
            **both({"layers.{i}.ffn.up": "mlp.Wi", "layers.{i}.ffn.down": "mlp.Wo"}),
            **{
                f"layers.{{i}}.mixer.qkv.{end}": " ".join(f"attn.{one}_proj.{end}" for one in "qkv")
                for end in ("weight", "bias")
            },
        },
    ),
}

FAMILIES = {
    "ModernBertDecoderForCausalLM": Family(
        "Ettin's decoders 17M to 1B",
        _modernbert,
        MODERNBERT,
        "layer norms, windows on two layers of three, a map with a norm before the head",
    ),
}
