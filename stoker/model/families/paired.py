"""Families whose rotary embedding turns neighbouring pairs: GLM-4 and Cohere's Command."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, attention, decoder, layer_types
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import changed, names


def _glm(f: Fields, *, post_norms: bool = False) -> ModelSpec:
    bias = f.flag("attention_bias", True)
    mixer = attention(f, partial=0.5, qkv_bias=bias, out_bias=False)
    return decoder(f, mixer, layer={"post_norms": post_norms})


def _glm4(f: Fields) -> ModelSpec:
    return _glm(f, post_norms=True)


def _command(f: Fields, *, windows: bool = False) -> ModelSpec:
    own = "own" if f.flag("use_qk_norm") else None
    mixer = attention(f, theta=10000.0 if windows else 500000.0, qk_norm=own)
    mixers = [mixer] * f.layers()
    if windows:
        pattern = f.size("sliding_window_pattern", 4)
        slides = layer_types(f, lambda index: (index + 1) % pattern != 0)
        # Layers that see everything are blind to positions.
        near = replace(mixer, window=f.size("sliding_window") if any(slides) else None)
        mixers = [near if slide else replace(mixer, rope=None) for slide in slides]
    return decoder(
        f,
        mixers,
        norm=NormSpec("layer", f.number("layer_norm_eps", 1e-5)),
        tied=True,
        layer={"parallel": "one norm"},
        logit_scale=f.number("logit_scale", 0.0625),
    )


def _cohere2(f: Fields) -> ModelSpec:
    return _command(f, windows=True)


PAIRED = changed(LLAMA, "qkv q_norm k_norm", pairs=True)
GLM = {
    **PAIRED,
    **names(LAYER, {"layers.{i}.ffn.up.weight": "mlp.gate_up_proj.weight"}),
}
GLM4 = {
    **GLM,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.post_norm.weight": "post_self_attn_layernorm.weight",
            "layers.{i}.ffn.post_norm.weight": "post_mlp_layernorm.weight",
        },
    ),
}

FAMILIES = {
    "GlmForCausalLM": Family(
        "GLM-4 9B (hf)", _glm, GLM, "rotary embedding in pairs over half of each head, QKV biases"
    ),
    "Glm4ForCausalLM": Family(
        "GLM-4-0414, GLM-Z1", _glm4, GLM4, "as GLM, with norms before and after each part"
    ),
    "CohereForCausalLM": Family(
        "Command R, Command R+, Aya",
        _command,
        PAIRED,
        "mixer and network in parallel, layer norms without bias, rotary embedding in pairs, "
        "scaled logits, norms on heads in some",
    ),
    "Cohere2ForCausalLM": Family(
        "Command R7B, Command A",
        _cohere2,
        PAIRED,
        "as Command R; windows on three layers of four, no positions on the fourth",
    ),
}
