"""Decoders whose scores fall with the distance of a key: BLOOM, MPT, and some Falcons.

ALiBi is Press et al. (2022): a head takes its slope times the distance from a score.
"""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.fields import Fields
from stoker.model.families.parts import Family, both, head_size, plain
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import LayerSpec, ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import changed, names

CONTEXT = 2048  # BLOOM's configs don't say how long its training sequences were


def slopes(heads: int) -> tuple[float, ...]:
    """2^-(8/n), 2^-(16/n), ... for n heads; beyond a power of two every other one of 2n.

    6 heads: 1/4, 1/16, 1/64, 1/256 of 4 heads, then 1/2, 1/8 of 8.
    """
    power = 1 << heads.bit_length() - 1
    first = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    others = [2.0 ** (-4 * i / power) for i in range(1, 2 * power, 2)]
    return tuple((first + others)[:heads])


def _mpt_slopes(heads: int, most: int) -> tuple[float, ...]:
    """2^-(most i/n) for the next power of two n; of these the even ones come first if n > heads."""
    power = 1 << (heads - 1).bit_length()
    every = [2.0 ** (-most * i / power) for i in range(1, power + 1)]
    return tuple(every if power == heads else (every[1::2] + every[::2])[:heads])


def with_slopes(mixer: AttentionSpec, factor: float = 1.0) -> AttentionSpec:
    """The mixer with ALiBi, its slopes times `factor`, in place of a rotary embedding."""
    steep = tuple(factor * slope for slope in slopes(mixer.heads))
    return replace(mixer, rope=None, slopes=steep)


def _bloom(f: Fields) -> ModelSpec:
    f.insist("apply_residual_connection_post_layernorm", False, False)
    hidden = f.size(_either(f, "hidden_size", "n_embed"))
    heads = f.size(_either(f, "n_head", "num_attention_heads"))
    count = f.layers(_either(f, "n_layer", "num_hidden_layers"))
    dim = head_size(hidden, heads)
    mixer = AttentionSpec(heads, heads, dim, dim**-0.5, qkv_bias=True, out_bias=True)
    layer = LayerSpec(with_slopes(mixer), plain(4 * hidden, "gelu_tanh"))
    return ModelSpec(
        hidden=hidden,
        vocab=f.size("vocab_size"),
        layers=(layer,) * count,
        norm=NormSpec("layer", f.number("layer_norm_epsilon", 1e-5), bias=True),
        context=f.size("seq_length", CONTEXT),
        tied_head=f.flag("tie_word_embeddings", True),
        embedding_norm=True,
    )


def _either(f: Fields, name: str, older: str) -> str:
    """Which of two names of a field the config has, or else the first."""
    return older if older in f.values and name not in f.values else name


def _mpt(f: Fields) -> ModelSpec:
    hidden, heads = f.size("d_model"), f.size("n_heads")
    given = f.within("attn_config")
    given.insist("attn_type", "multihead_attention", "multihead_attention")
    given.insist("prefix_lm", False, False)
    given.insist("qk_ln", False, False)
    given.insist("alibi", True, True)
    f.insist("no_bias", True, True)
    f.insist("logit_scale", None, None)
    dim = head_size(hidden, heads)
    mixer = AttentionSpec(
        heads,
        heads,
        dim,
        given.number("softmax_scale", dim**-0.5, above=0),
        clip=given.number("clip_qkv", None, above=0),
        slopes=_mpt_slopes(heads, given.size("alibi_bias_max", 8)),
    )
    f.insist("expansion_ratio", 4, 4)
    layer = LayerSpec(mixer, DenseSpec(4 * hidden, "gelu", gated=False))
    return ModelSpec(
        hidden=hidden,
        vocab=f.size("vocab_size"),
        layers=(layer,) * f.layers("n_layers"),
        norm=NormSpec("layer", f.number("layer_norm_epsilon", 1e-5)),
        context=f.size("max_seq_len", 2048),
        tied_head=f.flag("tie_word_embeddings", True),
    )


_BLOOM_LAYER = {
    "layers.{i}.mixer_norm": "input_layernorm",
    "layers.{i}.ffn_norm": "post_attention_layernorm",
    "layers.{i}.mixer.qkv": "self_attention.query_key_value",
    "layers.{i}.mixer.out": "self_attention.dense",
    "layers.{i}.ffn.up": "mlp.dense_h_to_4h",
    "layers.{i}.ffn.down": "mlp.dense_4h_to_h",
}
_BLOOM_OUTER = {"norm": "ln_f", "embedding_norm": "word_embeddings_layernorm"}
BLOOM = {
    **names("", {"head.weight": "lm_head.weight"}),
    **names("transformer.", {"embedding": "word_embeddings.weight"} | both(_BLOOM_OUTER)),
    **changed(names("transformer.h.{i}.", both(_BLOOM_LAYER)), "qkv", by_group=True),
}
MPT = {
    **names("", {"head.weight": "lm_head.weight"}),
    **names("transformer.", {"embedding": "wte.weight", "norm.weight": "norm_f.weight"}),
    **names(
        "transformer.blocks.{i}.",
        {
            "layers.{i}.mixer_norm.weight": "norm_1.weight",
            "layers.{i}.ffn_norm.weight": "norm_2.weight",
            "layers.{i}.mixer.qkv.weight": "attn.Wqkv.weight",
            "layers.{i}.mixer.out.weight": "attn.out_proj.weight",
            "layers.{i}.ffn.up.weight": "ffn.up_proj.weight",
            "layers.{i}.ffn.down.weight": "ffn.down_proj.weight",
        },
    ),
}

FAMILIES = {
    "BloomForCausalLM": Family(
        "BLOOM, BLOOMZ",
        _bloom,
        BLOOM,
        "scores that fall with distance (ALiBi), a norm of the embedding",
        base="transformer.",
    ),
    "MptForCausalLM": Family(
        "MPT 7B and 30B, and their chats", _mpt, MPT, "ALiBi, no biases", base="transformer."
    ),
}
