"""Doge: keys that are worth more or less by themselves, and residuals of learned weights."""

from __future__ import annotations

from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, attention, both, decoder
from stoker.model.families.rope import context
from stoker.model.spec.biased_keys import BiasedKeysSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.weights import names


def _doge(f: Fields) -> ModelSpec:
    f.insist("is_moe", False, False)
    usual = attention(f, window=f.size("sliding_window", None))
    mixer = BiasedKeysSpec(
        heads=usual.heads,
        kv_heads=usual.kv_heads,
        head_dim=usual.head_dim,
        scale=usual.scale,
        rope=usual.rope,
        qkv_bias=usual.qkv_bias,
        out_bias=usual.out_bias,
        window=usual.window,
        value_dim=usual.head_dim,
    )
    # behind so many tokens each query sees only those of the largest worth
    limit = min(context(f), f.size("keep_window_size", 2048))
    return decoder(f, mixer, layer={"weighted_residual": True}, context=limit)


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
    "DogeForCausalLM": Family(
        "Doge 20M to 320M",
        _doge,
        DOGE,
        "keys with a learned worth, weighted residuals; within keep_window_size tokens, dense",
    ),
}
