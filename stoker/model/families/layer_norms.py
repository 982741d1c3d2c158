"""Decoders with layer norms and rotary embeddings: Phi, StableLM, OLMo, Persimmon, Falcon.

And BioGPT, whose positions are learned.
"""

from __future__ import annotations

import math
from dataclasses import replace

from stoker.model.families.alibi import with_slopes
from stoker.model.families.experts import ways
from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    both,
    decoder,
    gated,
    plain,
)
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import LearnedPositions, ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import changed, names


def _norm(f: Fields, name: str = "layer_norm_eps") -> NormSpec:
    return NormSpec("layer", f.number(name, 1e-5), bias=True)


def _headwise(f: Fields, default: bool) -> str | None:
    return "head" if f.flag("qk_layernorm", default) else None


def _network(f: Fields, default: str) -> DenseSpec:
    return plain(f.size("intermediate_size"), activation(f, default=default))


def _phi(f: Fields) -> ModelSpec:
    mixer = attention(f, partial=0.5, qkv_bias=True, out_bias=True, qk_norm=_headwise(f, False))
    tied = f.flag("tie_word_embeddings")
    return decoder(
        f,
        mixer,
        ffn=_network(f, "gelu_new"),
        norm=_norm(f),
        layer={"parallel": "one norm"},
        head_bias=not tied,
    )


def _stablelm(f: Fields) -> ModelSpec:
    f.insist("qk_layernorm", False, False)
    bias = f.flag("use_qkv_bias")
    parallel = "one norm" if f.flag("use_parallel_residual") else None
    mixer = attention(f, partial=0.25, qkv_bias=bias, out_bias=False)
    return decoder(f, mixer, ffn=gated(f), norm=_norm(f), layer={"parallel": parallel})


def _olmo(f: Fields) -> ModelSpec:
    clip = f.number("clip_qkv", None, above=0)
    norm = NormSpec("layer", 1e-5, weight=False)
    return decoder(f, attention(f, clip=clip), norm=norm)


def _persimmon(f: Fields) -> ModelSpec:
    mixer = attention(f, partial=0.5, qkv_bias=True, out_bias=True, qk_norm=_headwise(f, True))
    return decoder(f, mixer, ffn=_network(f, "relu2"), norm=_norm(f))


def _biogpt(f: Fields) -> ModelSpec:
    rows = f.size("max_position_embeddings", 1024)
    scaled = f.flag("scale_embedding", True)
    return decoder(
        f,
        attention(f, rope=None, qkv_bias=True, out_bias=True),
        ffn=_network(f, "gelu"),
        norm=NormSpec("layer", 1e-5, bias=True),
        tied=True,
        embedding_scale=math.sqrt(f.size("hidden_size")) if scaled else 1.0,
        positions=LearnedPositions(rows + 2, offset=2),
    )


def _falcon_mixer(f: Fields, new: bool) -> AttentionSpec:
    bias = f.flag("bias")
    mixer = attention(f, qkv_bias=bias, out_bias=bias)
    if not new and f.flag("multi_query", True):
        return replace(mixer, kv_heads=1)
    heads = f.size("num_kv_heads", f.size("n_head_kv", mixer.heads))
    return replace(mixer, kv_heads=heads)


def _falcon(f: Fields) -> ModelSpec:
    for ours, theirs in (
        ("hidden_size", "n_embed"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
    ):
        f.values.setdefault(ours, f.values.get(theirs))
    f.values.setdefault("max_position_embeddings", 2048)
    new = f.flag("new_decoder_architecture")
    parallel = new or f.flag("parallel_attn", True)
    norms = f.size("num_ln_in_parallel_attn", 2 if new else 1, most=2)
    kind = "gelu" if "activation" not in f.values else activation(f, "activation")
    mixer = _falcon_mixer(f, new)
    if f.flag("alibi"):  # which is scaled together with the scores
        mixer = with_slopes(mixer, mixer.scale)
    ffn = plain(f.size("ffn_hidden_size", 4 * f.size("hidden_size")), kind, f.flag("bias"))
    return decoder(
        f,
        mixer,
        ffn=ffn,
        norm=_norm(f, "layer_norm_epsilon"),
        tied=True,
        layer={"parallel": ("two norms" if norms == 2 else "one norm") if parallel else None},
    )


_DENSE = {"layers.{i}.mixer.out": "self_attn.dense"}
_HEADS = {"layers.{i}.mixer.q_norm": "q_layernorm", "layers.{i}.mixer.k_norm": "k_layernorm"}
PHI = {
    **LLAMA,
    **names("", both({"head": "lm_head", "norm": "model.final_layernorm"})),
    **names(LAYER, both(_DENSE)),
    **names(LAYER + "self_attn.", both(_HEADS)),
    **names(LAYER + "mlp.", both({"layers.{i}.ffn.up": "fc1", "layers.{i}.ffn.down": "fc2"})),
}
_FUSED_LAYER = {
    "layers.{i}.mixer.qkv": "self_attn.query_key_value",
    "layers.{i}.ffn.up": "mlp.dense_h_to_4h",
    "layers.{i}.ffn.down": "mlp.dense_4h_to_h",
}
PERSIMMON = {**PHI, **changed(names(LAYER, both(_FUSED_LAYER)), "qkv", by_group=True)}

_BIOGPT_LAYER = {
    "layers.{i}.mixer_norm": "self_attn_layer_norm",
    "layers.{i}.ffn_norm": "final_layer_norm",
    "layers.{i}.mixer.out": "self_attn.out_proj",
    "layers.{i}.ffn.up": "fc1",
    "layers.{i}.ffn.down": "fc2",
}
BIOGPT = {
    **names("", {"head.weight": "output_projection.weight"}),
    **names("biogpt.", {"embedding": "embed_tokens.weight", "positions": "embed_positions.weight"}),
    **names("biogpt.", both({"norm": "layer_norm"})),
    **names(
        "biogpt.layers.{i}.self_attn.",
        {
            "layers.{i}.mixer.qkv.weight": "q_proj.weight k_proj.weight v_proj.weight",
            "layers.{i}.mixer.qkv.bias": "q_proj.bias k_proj.bias v_proj.bias",
        },
    ),
    **names("biogpt.layers.{i}.", both(_BIOGPT_LAYER)),
}

_FALCON_LAYER = {
    "layers.{i}.mixer.qkv": "self_attention.query_key_value",
    "layers.{i}.mixer.out": "self_attention.dense",
    "layers.{i}.ffn.up": "mlp.dense_h_to_4h",
    "layers.{i}.ffn.down": "mlp.dense_4h_to_h",
}
_TWO_NORMS = {  # of the 40B and 180B
    f"layers.{{i}}.{ours}.{end}": ways(*(f"transformer.h.{{i}}.{name}.{end}" for name in found))
    for ours, found in (
        ("mixer_norm", ("input_layernorm", "ln_attn")),
        ("ffn_norm", ("post_attention_layernorm", "ln_mlp")),
    )
    for end in ("weight", "bias")
}
FALCON = {
    **names("", {"head.weight": "lm_head.weight"}),
    **names("transformer.", {"embedding": "word_embeddings.weight"} | both({"norm": "ln_f"})),
    **changed(names("transformer.h.{i}.", both(_FALCON_LAYER)), "qkv", by_group=True),
    **_TWO_NORMS,
}

FAMILIES = {
    "PhiForCausalLM": Family(
        "Phi-1, Phi-1.5, Phi-2",
        _phi,
        PHI,
        "mixer and network in parallel behind one norm, partial rotary embedding, a head with "
        "biases",
    ),
    "StableLmForCausalLM": Family(
        "StableLM 3B, StableLM 2 1.6B, Zephyr 3B",
        _stablelm,
        LLAMA,
        "layer norms, partial rotary embedding; mixer and network in parallel in some",
    ),
    "OlmoForCausalLM": Family(
        "OLMo 1B and 7B", _olmo, LLAMA, "layer norms without weights, clamped projections in some"
    ),
    "PersimmonForCausalLM": Family(
        "Persimmon 8B",
        _persimmon,
        PERSIMMON,
        "QKV fused head by head, layer norms on heads, squared ReLU",
    ),
    "BioGptForCausalLM": Family(
        "BioGPT", _biogpt, BIOGPT, "learned positions, scaled embeddings", base="biogpt."
    ),
    "FalconForCausalLM": Family(
        "Falcon 7B, 11B, 40B, 180B, Falcon-RW",
        _falcon,
        FALCON,
        "mixer and network in parallel, QKV fused by key-value head; ALiBi in some",
        base="transformer.",
    ),
}
