"""gpt-oss: attention sinks, windows on every other layer, experts with biases and clamped gates."""

from __future__ import annotations

from stoker.model.families.experts import routing
from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    attention,
    decoder,
    layer_types,
    with_windows,
)
from stoker.model.families.rope import given_rope
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import From, names

STRETCHED = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _gpt_oss(f: Fields) -> ModelSpec:
    if not given_rope(f):
        f.values["rope_parameters"] = STRETCHED
    f.insist("hidden_act", "silu", "silu")
    f.insist("swiglu_alpha", 1.702, 1.702)  # that of quick_gelu
    bias = f.flag("attention_bias", True)
    mixer = attention(f, theta=150_000.0, qkv_bias=bias, out_bias=bias, sinks=True)
    expert = DenseSpec(
        f.size("intermediate_size"),
        "quick_gelu",
        bias=True,
        limit=f.number("swiglu_limit", 7.0, above=0),
        shift=1.0,
    )
    mixture = ExpertsSpec(routing(f, scores="softmax of chosen"), expert, router_bias=True)
    slides = layer_types(f, lambda index: index % 2 == 0)
    return decoder(f, with_windows(f, mixer, slides), ffn=mixture)


_MLP = LAYER + "mlp."
_EXPERTS = _MLP + "experts."
GPT_OSS = {
    **LLAMA,
    **names(LAYER, {"layers.{i}.mixer.sinks": "self_attn.sinks"}),
    **names(
        _MLP,
        {
            "layers.{i}.ffn.router.weight": "router.weight",
            "layers.{i}.ffn.router.bias": "router.bias",
        },
    ),
    "layers.{i}.ffn.expert_up.weight": From(
        (_EXPERTS + "gate_up_proj",), transpose=True, alternating=True
    ),
    "layers.{i}.ffn.expert_up.bias": From((_EXPERTS + "gate_up_proj_bias",), alternating=True),
    "layers.{i}.ffn.expert_down.weight": From((_EXPERTS + "down_proj",), transpose=True),
    "layers.{i}.ffn.expert_down.bias": From((_EXPERTS + "down_proj_bias",)),
}

FAMILIES = {
    "GptOssForCausalLM": Family(
        "gpt-oss 20B and 120B, in bfloat16",
        _gpt_oss,
        GPT_OSS,
        "attention sinks, windows on every other layer, yarn; experts with biases, gates clamped",
    ),
}
