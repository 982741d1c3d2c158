"""DiffLlama: Llama with differential attention."""

from __future__ import annotations

import math

from stoker.errors import ModelError
from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, attention, decoder
from stoker.model.spec.differential import DifferentialSpec
from stoker.model.spec.model import ModelSpec
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
            heads=usual.heads,
            kv_heads=usual.kv_heads,
            head_dim=usual.head_dim,
            scale=usual.scale,
            rope=usual.rope,
            qkv_bias=usual.qkv_bias,
            out_bias=usual.out_bias,
            value_dim=2 * usual.head_dim,
            start=0.8 - 0.6 * math.exp(-0.3 * index),
        )
        for index in range(f.layers())
    ]
    return decoder(f, mixers)


DIFFLLAMA = {
    **LLAMA,
    **names(
        LAYER + "self_attn.",
        {f"layers.{{i}}.mixer.out_norm.{one}": f"lambda_{one}" for one in ("q1", "k1", "q2", "k2")},
    ),
}

FAMILIES = {
    "DiffLlamaForCausalLM": Family(
        "DiffLlama 0.3B and 1B",
        _diffllama,
        DIFFLLAMA,
        "as Llama, each head the difference of two; values are cached twice",
    ),
}
