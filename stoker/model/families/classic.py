"""Layer norms with biases and plain networks: StarCoder2, GPT-NeoX, GPT-2, OPT."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    both,
    decoder,
    head_size,
    plain,
)
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import LayerSpec, LearnedPositions, ModelSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import changed, names


def _starcoder2(f: Fields) -> ModelSpec:
    bias = f.flag("use_bias", True)
    window = f.size("sliding_window", None)
    return decoder(
        f,
        attention(f, qkv_bias=bias, out_bias=bias, window=window),
        ffn=plain(f.size("intermediate_size"), activation(f, default="gelu_pytorch_tanh"), bias),
        norm=NormSpec("layer", f.number("norm_epsilon", 1e-5), bias=True),
        tied=True,
    )


def _gpt_neox(f: Fields) -> ModelSpec:
    bias = f.flag("attention_bias", True)
    parallel = "two norms" if f.flag("use_parallel_residual", True) else None
    theta, partial = f.number("rotary_emb_base", 10000.0), f.number("rotary_pct", 0.25)
    return decoder(
        f,
        attention(f, theta=theta, partial=partial, qkv_bias=bias, out_bias=bias),
        ffn=plain(f.size("intermediate_size"), activation(f, default="gelu")),
        norm=NormSpec("layer", f.number("layer_norm_eps", 1e-5), bias=True),
        layer={"parallel": parallel},
    )


def _gpt2(f: Fields) -> ModelSpec:
    f.insist("add_cross_attention", False, False)
    heads, hidden, rows = f.size("n_head"), f.size("n_embd"), f.size("n_positions", 1024)
    dim = head_size(hidden, heads)
    scale = dim**-0.5 if f.flag("scale_attn_weights", True) else 1.0
    mixer = AttentionSpec(heads, heads, dim, scale, qkv_bias=True, out_bias=True)
    kind = activation(f, "activation_function", "gelu_new")
    ffn = plain(f.size("n_inner", 4 * hidden), kind)
    mixers = [mixer] * f.layers("n_layer")
    if f.flag("scale_attn_by_inverse_layer_idx"):
        mixers = [replace(one, scale=scale / (i + 1)) for i, one in enumerate(mixers)]
    return ModelSpec(
        hidden=hidden,
        vocab=f.size("vocab_size"),
        layers=tuple(LayerSpec(one, ffn) for one in mixers),
        norm=NormSpec("layer", f.number("layer_norm_epsilon", 1e-5), bias=True),
        context=rows,
        tied_head=f.flag("tie_word_embeddings", True),
        positions=LearnedPositions(rows),
    )


def _opt(f: Fields) -> ModelSpec:
    hidden, context = f.size("hidden_size"), f.size("max_position_embeddings")
    before = f.flag("do_layer_norm_before", True)
    width = f.size("word_embed_proj_dim", hidden)
    f.insist("_remove_final_layer_norm", False, False)
    f.insist("layer_norm_elementwise_affine", True, True)
    bias = f.flag("enable_bias", True)
    return decoder(
        f,
        replace(attention(f), rope=None, qkv_bias=bias, out_bias=bias),
        ffn=plain(f.size("ffn_dim"), activation(f, "activation_function", "relu"), bias),
        norm=NormSpec("layer", 1e-5, bias=True),
        tied=True,
        layer={"pre_norms": before, "sum_norms": not before},
        positions=LearnedPositions(context + 2, offset=2),
        embedding_width=None if width == hidden else width,
        final_norm=before,
    )


STARCODER2 = {
    **LLAMA,
    **names(
        LAYER + "mlp.",
        {
            "layers.{i}.ffn.up.weight": "c_fc.weight",
            "layers.{i}.ffn.up.bias": "c_fc.bias",
            "layers.{i}.ffn.down.weight": "c_proj.weight",
            "layers.{i}.ffn.down.bias": "c_proj.bias",
        },
    ),
}


_NEOX_LAYER = {
    "layers.{i}.mixer_norm": "input_layernorm",
    "layers.{i}.ffn_norm": "post_attention_layernorm",
    "layers.{i}.mixer.qkv": "attention.query_key_value",
    "layers.{i}.mixer.out": "attention.dense",
    "layers.{i}.ffn.up": "mlp.dense_h_to_4h",
    "layers.{i}.ffn.down": "mlp.dense_4h_to_h",
}
GPT_NEOX = {
    **names("", {"head.weight": "embed_out.weight"}),
    **names("gpt_neox.", {"embedding": "embed_in.weight"} | both({"norm": "final_layer_norm"})),
    **changed(names("gpt_neox.layers.{i}.", both(_NEOX_LAYER)), "qkv", by_group=True),
}

_GPT2_LAYER = {
    "layers.{i}.mixer_norm": "ln_1",
    "layers.{i}.ffn_norm": "ln_2",
    "layers.{i}.mixer.qkv": "attn.c_attn",
    "layers.{i}.mixer.out": "attn.c_proj",
    "layers.{i}.ffn.up": "mlp.c_fc",
    "layers.{i}.ffn.down": "mlp.c_proj",
}
_LINEAR = "qkv.weight out.weight up.weight down.weight"
GPT2 = {
    **names("", {"head.weight": "lm_head.weight"}),
    **names("transformer.", {"embedding": "wte.weight", "positions": "wpe.weight"}),
    **names("transformer.", both({"norm": "ln_f"})),
    **changed(names("transformer.h.{i}.", both(_GPT2_LAYER)), _LINEAR, transpose=True),
}

_OPT_LAYER = {
    "layers.{i}.mixer_norm": "self_attn_layer_norm",
    "layers.{i}.ffn_norm": "final_layer_norm",
    "layers.{i}.mixer_sum_norm": "self_attn_layer_norm",
    "layers.{i}.ffn_sum_norm": "final_layer_norm",
    "layers.{i}.mixer.out": "self_attn.out_proj",
    "layers.{i}.ffn.up": "fc1",
    "layers.{i}.ffn.down": "fc2",
}
_OPT = "model.decoder."
OPT = {
    **names("", {"head.weight": "lm_head.weight"}),
    **names(_OPT, {"embedding": "embed_tokens.weight", "positions": "embed_positions.weight"}),
    **names(_OPT, both({"norm": "final_layer_norm"})),
    **names(_OPT, {f"project_{way}.weight": f"project_{way}.weight" for way in ("in", "out")}),
    **names(
        _OPT + "layers.{i}.self_attn.",
        {
            "layers.{i}.mixer.qkv.weight": "q_proj.weight k_proj.weight v_proj.weight",
            "layers.{i}.mixer.qkv.bias": "q_proj.bias k_proj.bias v_proj.bias",
        },
    ),
    **names(_OPT + "layers.{i}.", both(_OPT_LAYER)),
}

FAMILIES = {
    "Starcoder2ForCausalLM": Family(
        "StarCoder2", _starcoder2, STARCODER2, "layer norms and projections with biases, a window"
    ),
    "GPTNeoXForCausalLM": Family(
        "Pythia, GPT-NeoX-20B, Dolly, RedPajama-INCITE",
        _gpt_neox,
        GPT_NEOX,
        "mixer and network in parallel, partial rotary embedding, QKV fused head by head",
        base="gpt_neox.",
        ignored=("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"),
    ),
    "GPT2LMHeadModel": Family(
        "GPT-2, DistilGPT2",
        _gpt2,
        GPT2,
        "learned positions, transposed weights",
        base="transformer.",
        ignored=("attn.bias", "attn.masked_bias"),
    ),
    "OPTForCausalLM": Family(
        "OPT",
        _opt,
        OPT,
        "learned positions, ReLU; in OPT-350M a norm behind each sum, and an embedding narrower "
        "than the layers",
    ),
}
