"""Gemma 3n: residual streams, sparse gates, inputs of tokens, layers that share a cache."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.fields import Fields, is_finite
from stoker.model.families.gemma import of_windows
from stoker.model.families.gemma4 import NORMS, SHARED, TOKEN_INPUTS, sources
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
    layer_types,
)
from stoker.model.families.wrapped import BESIDE, RENAMED, text_fields
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.streams import StreamsSpec
from stoker.model.spec.token_inputs import TokenInputSpec, TokenInputsSpec
from stoker.model.weights import names

MOST_STREAMS = 8  # that the table of names has
# What configs leave out.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_400,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
}


def _gemma3n(f: Fields) -> ModelSpec:
    for name, value in DEFAULTS.items():
        f.values.setdefault(name, value)
    slides = layer_types(f, lambda index: (index + 1) % 5 != 0)
    fields: dict[str, Any] = {"scale": 1.0, "qk_norm": "head", "value_norm": True}
    full = attention(f, theta=1e6, kind="full_attention", **fields)
    window = f.size("sliding_window")
    sliding = attention(of_windows(f), kind="sliding_attention", window=window, **fields)
    mixers = [
        replace(sliding if slide else full, reads=source)
        for slide, source in zip(slides, sources(f, slides, 15), strict=True)
    ]
    kind, width = (
        activation(f, "hidden_activation", "gelu_pytorch_tanh"),
        f.size("hidden_size_per_layer_input", 256),
    )
    return decoder(
        f,
        mixers,
        ffn=_networks(f, kind),
        tied=True,
        layer={
            "post_norms": True,
            "token_input": TokenInputSpec(width, kind),
            "streams": _streams(f),
        },
        embedding_scale=math.sqrt(f.size("hidden_size")),
        logit_softcap=f.number("final_logit_softcapping", 30.0),
        token_inputs=TokenInputsSpec(width, f.size("vocab_size_per_layer_input", 262_144)),
    )


def _streams(f: Fields) -> StreamsSpec:
    count = f.size("altup_num_inputs", 4, most=MOST_STREAMS)
    active = f.number("altup_active_idx", 0)
    if type(active) is not int or not 0 <= active < count:
        raise ModelError(
            f"altup_active_idx in config.json must be one of the {count} streams, counted from 0, "
            f"not {short(active)}"
        )
    scaled = f.flag("altup_correct_scale", True)
    return StreamsSpec(count, active, scaled, f.size("laurel_rank", 64))


def _networks(f: Fields, kind: str) -> list[DenseSpec]:
    """The network of each layer; sizes and sparsities may be lists of one for each."""
    count, sizes = f.layers(), f.values["intermediate_size"]
    sizes = f.items("intermediate_size", count) if isinstance(sizes, list) else [sizes] * count
    default = [0.95] * 10 + [0.0] * (count - 10) if count > 10 else [0.0] * count
    given = f.values.get("activation_sparsity_pattern", default)
    shares = given if isinstance(given, list) else [given] * count
    if len(shares) != count or not all(is_finite(one) and 0 <= one < 1 for one in shares):
        raise ModelError(
            "activation_sparsity_pattern in config.json must hold a number from 0 to below 1 for "
            f"each of the {count} layers, not {short(given)}"
        )
    assert sizes is not None
    return [
        DenseSpec(
            Fields({"intermediate_size": size}, f.architecture).size("intermediate_size"),
            kind,
            sparsity=float(share),
        )
        for size, share in zip(sizes, shares, strict=True)
    ]


def _wrapped(f: Fields) -> ModelSpec:
    return _gemma3n(text_fields(f, {}))


GEMMA3N = {
    **LLAMA,
    **TOKEN_INPUTS,
    **NORMS,
    **{
        f"{ours}.maps.{index}.weight": source
        for ours, theirs in (
            ("make_streams", "altup_projections"),
            ("join_streams", "altup_unembed_projections"),
        )
        for index in range(MOST_STREAMS - 1)
        for source in names("model.", {"": f"{theirs}.{index}.weight"}).values()
    },
    **names(
        LAYER + "altup.",
        {
            "layers.{i}.router.weight": "modality_router.weight",
            "layers.{i}.router_norm.weight": "router_norm.weight",
            "layers.{i}.predict.weight": "prediction_coefs.weight",
            "layers.{i}.correct.weight": "correction_coefs.weight",
            "layers.{i}.active_scale": "correct_output_scale",
        },
    ),
    **names(
        LAYER + "laurel.",
        {
            "layers.{i}.left.weight": "linear_left.weight",
            "layers.{i}.right.weight": "linear_right.weight",
            "layers.{i}.beside_norm.weight": "post_laurel_norm.weight",
        },
    ),
}
_OTHERS = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.")
IGNORED = ("rotary_emb.inv_freq", *("self_attn." + one for one in SHARED))

FAMILIES = {
    "Gemma3nForCausalLM": Family(
        "Gemma 3n text",
        _gemma3n,
        GEMMA3N,
        "several residual streams (AltUp), sparse gates, inputs of each token for each layer, "
        "layers that read an earlier layer's cache",
        ignored=IGNORED,
    ),
    "Gemma3nForConditionalGeneration": Family(
        "Gemma 3n (E2B, E4B)",
        _wrapped,
        GEMMA3N,
        "the text model of Gemma 3n; the models of images and sound are left out",
        ignored=IGNORED,
        renamed=RENAMED,
        beside=(*BESIDE, *_OTHERS, *("model." + part for part in _OTHERS)),
    ),
}
