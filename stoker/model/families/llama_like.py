"""Llama's shape with another attention: DiffLlama and Doge."""

from __future__ import annotations

import math

from stoker.errors import ModelError
from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, attention, both, decoder
from stoker.model.families.rope import context
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.value_widths import BiasedKeysSpec, DifferentialSpec
from stoker.model.weights import names


def _diffllama(f: Fields) -> ModelSpec:
    usual = attention(f)
    if usual.kv_heads % 2:
        raise ModelError(
            f"num_key_value_heads in config.json must be even for {f.architecture}, not "
            f"{usual.kv_heads}"
        )
    mixers = [
        DifferentialSpec(
            **vars(usual),
            value_dim=2 * usual.head_dim,
            start=0.8 - 0.6 * math.exp(-0.3 * index),
        )
        for index in range(f.layers())
    ]
    return decoder(f, mixers)


def _doge(f: Fields) -> ModelSpec:
    f.insist("is_moe", False, False)
    usual = attention(f, window=f.size("sliding_window", None))
    mixer = BiasedKeysSpec(**vars(usual), value_dim=usual.head_dim)
    # behind so many tokens each query sees only those of the largest worth
    limit = min(context(f), f.size("keep_window_size", 2048))
    return decoder(f, mixer, layer={"weighted_residual": True}, context=limit)


DIFFLLAMA = {
    **LLAMA,
    **names(
        LAYER + "self_attn.",
        {f"layers.{{i}}.mixer.out_norm.{one}": f"lambda_{one}" for one in ("q1", "k1", "q2", "k2")},
    ),
}
DOGE = {
    **LLAMA,
    **names(
        LAYER,
        {
            "layers.{i}.mixer_residual": "input_residual",
            "layers.{i}.ffn_residual": "post_attention_residual",
            "layers.{i}.mixer.rates": "self_attn.A",
            **both({"layers.{i}.mixer.worth": "self_attn.dt_proj"}),
        },
    ),
}

FAMILIES = {
    "DiffLlamaForCausalLM": Family(
        "DiffLlama 0.3B and 1B",
        _diffllama,
        DIFFLLAMA,
        "as Llama, each head the difference of two; values are cached twice",
    ),
    "DogeForCausalLM": Family(
        "Doge 20M to 320M",
        _doge,
        DOGE,
        "keys with a learned worth, weighted residuals; within keep_window_size tokens, dense",
    ),
}
