"""Decoders whose networks have a squared ReLU, or xIELU, and mostly no gate."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
)
from stoker.model.families.recent import llama3_rope
from stoker.model.families.rope import given_rope
from stoker.model.rope import BackwardScaling
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import changed, names


def _plain(f: Fields, bias: bool = False) -> DenseSpec:
    kind = activation(f, default="relu2")
    return DenseSpec(f.size("intermediate_size"), kind, gated=False, bias=bias)


def _arcee(f: Fields) -> ModelSpec:
    return decoder(f, attention(f), ffn=_plain(f, f.flag("mlp_bias")))


def _nemotron(f: Fields) -> ModelSpec:
    return decoder(
        f,
        attention(f, partial=0.5),
        ffn=_plain(f, f.flag("mlp_bias")),
        norm=NormSpec("layer", f.number("norm_eps", 1e-5), bias=True),
    )


def _jais2(f: Fields) -> ModelSpec:
    bias = f.flag("attention_bias", True)
    return decoder(
        f,
        attention(f, qkv_bias=bias, out_bias=bias),
        ffn=_plain(f, f.flag("mlp_bias", True)),
        norm=NormSpec("layer", f.number("layer_norm_eps", 1e-5), bias=True),
    )


def _apertus(f: Fields) -> ModelSpec:
    f.insist("output_vocab_size", None, None)  # a head for a part of the vocabulary
    if not given_rope(f):
        f.values["rope_parameters"] = llama3_rope(8.0)
    size = f.size("intermediate_size")
    if f.values.get("hidden_act", "xielu") == "xielu":
        ffn = DenseSpec(size, "xielu", gated=False)
    else:
        ffn = _plain(f)
    return decoder(f, attention(f, theta=12_000_000.0, qk_norm="head"), ffn=ffn)


def _nanochat(f: Fields) -> ModelSpec:
    mixer = attention(f, qk_norm="unit")  # after the rotation there, which is the same
    assert mixer.rope is not None
    if mixer.rope.scaling is not None:
        f.within("rope_parameters").insist("rope_type", "default", "default")
    rope = replace(mixer.rope, scaling=BackwardScaling())
    return decoder(
        f,
        replace(mixer, rope=rope, out_bias=f.flag("attention_bias")),
        ffn=_plain(f),
        norm=NormSpec("rms", f.number("rms_norm_eps", 1e-6), weight=False),
        embedding_norm=True,
        logit_softcap=f.number(
            "final_logit_softcapping", f.default_or_null("final_logit_softcapping", 15.0)
        ),
    )


def _bitnet(f: Fields) -> ModelSpec:
    mixer = attention(f, theta=500_000.0, out_norm=True)
    kind = activation(f, default="relu2")
    ffn = DenseSpec(f.size("intermediate_size"), kind, inner_norm=True)
    return decoder(f, mixer, ffn=ffn)


PLAIN = {
    **LLAMA,
    **names(
        LAYER + "mlp.",
        {
            "layers.{i}.ffn.up.weight": "up_proj.weight",
            "layers.{i}.ffn.up.bias": "up_proj.bias",
            "layers.{i}.ffn.above": "act_fn.alpha_p",
            "layers.{i}.ffn.below": "act_fn.alpha_n",
        },
    ),
}
APERTUS = {
    **PLAIN,
    **names(
        LAYER,
        {
            "layers.{i}.mixer_norm.weight": "attention_layernorm.weight",
            "layers.{i}.ffn_norm.weight": "feedforward_layernorm.weight",
        },
    ),
}
NANOCHAT = {
    **LLAMA,
    **names(
        LAYER + "mlp.",
        {"layers.{i}.ffn.up.weight": "fc1.weight", "layers.{i}.ffn.down.weight": "fc2.weight"},
    ),
}
BITNET = {
    **LLAMA,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.out_norm.weight": "self_attn.attn_sub_norm.weight",
            "layers.{i}.ffn.inner_norm.weight": "mlp.ffn_sub_norm.weight",
        },
    ),
}
_XIELU = ("rotary_emb.inv_freq", "act_fn.beta", "act_fn.eps")

FAMILIES = {
    "ArceeForCausalLM": Family("AFM 4.5B", _arcee, PLAIN, "plain networks of squared ReLU"),
    "NemotronForCausalLM": Family(
        "Nemotron-3 and 4, Minitron",
        _nemotron,
        changed(PLAIN, "norm.weight", plus=1.0),
        "layer norms stored as 1 + w, plain networks of squared ReLU, partial rotary embedding",
    ),
    "Jais2ForCausalLM": Family(
        "Jais 2", _jais2, PLAIN, "layer norms, plain networks of squared ReLU, biases"
    ),
    "ApertusForCausalLM": Family(
        "Apertus (8B, 70B)",
        _apertus,
        APERTUS,
        "plain networks of xIELU, norms on each query and key head",
        ignored=_XIELU,
    ),
    "Apertus1p5TextForCausalLM": Family(
        "Apertus 1.5 text, with a head for the whole vocabulary",
        _apertus,
        APERTUS,
        "as Apertus",
        ignored=_XIELU,
    ),
    "NanoChatForCausalLM": Family(
        "nanochat",
        _nanochat,
        NANOCHAT,
        "norms without weights, of embeddings too, heads that turn backwards, soft-capped logits",
    ),
    "BitNetForCausalLM": Family(
        "BitNet b1.58, with weights in full precision",
        _bitnet,
        BITNET,
        "norms inside attention and network, squared ReLU",
    ),
}
