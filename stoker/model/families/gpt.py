"""What followed GPT: GPT itself, GPT-Neo, GPT-J, CodeGen, GPT-BigCode.

All name their sizes as GPT-2 does, or nearly so, and have plain networks with biases.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.fields import Fields
from stoker.model.families.parts import Family, activation, both, head_size, plain
from stoker.model.rope import Rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import LayerSpec, LearnedPositions, ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import changed, names


def _norm(f: Fields) -> NormSpec:
    return NormSpec("layer", f.number("layer_norm_epsilon", 1e-5), bias=True)


def _mixer(f: Fields, **changes: Any) -> AttentionSpec:
    heads = f.size("n_head")
    dim = head_size(f.size("n_embd"), heads)
    return replace(AttentionSpec(heads, heads, dim, dim**-0.5), **changes)


def _network(f: Fields, default: str = "gelu_new", name: str = "activation_function") -> DenseSpec:
    return plain(f.size("n_inner", 4 * f.size("n_embd")), activation(f, name, default))


def _decoder(f: Fields, layers: list[LayerSpec], **changes: Any) -> ModelSpec:
    """With the sizes that all but GPT-Neo name alike, and learned positions."""
    rows = f.size("n_positions")
    fields: dict[str, Any] = {
        "hidden": f.size("n_embd"),
        "vocab": f.size("vocab_size"),
        "layers": tuple(layers),
        "norm": _norm(f),
        "context": rows,
        "tied_head": f.flag("tie_word_embeddings", True),
        "positions": LearnedPositions(rows),
    }
    return ModelSpec(**{**fields, **changes})


def _gpt(f: Fields) -> ModelSpec:
    mixer = _mixer(f, qkv_bias=True, out_bias=True)
    # "gelu" is the approximation in this architecture
    kinds = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
    ffn = plain(4 * f.size("n_embd"), kinds[f.choice("afn", kinds, "activation", "gelu")])
    layer = LayerSpec(mixer, ffn, pre_norms=False, sum_norms=True)
    return _decoder(f, [layer] * f.layers("n_layer"), final_norm=False)


def _big_code(f: Fields) -> ModelSpec:
    f.insist("add_cross_attention", False, False)
    mixer = _mixer(f, qkv_bias=True, out_bias=True)
    if not f.flag("scale_attn_weights", True):
        mixer = replace(mixer, scale=1.0)
    if f.flag("multi_query", True):
        mixer = replace(mixer, kv_heads=1)
    layer = LayerSpec(mixer, _network(f, "gelu_pytorch_tanh"))
    return _decoder(f, [layer] * f.layers("n_layer"))


def _rotary(f: Fields) -> ModelSpec:
    """GPT-J and CodeGen: mixer and network read the same normed input."""
    mixer = _mixer(f)
    dim = f.size("rotary_dim", f.default_or_null("rotary_dim", 64)) or f.size("n_embd")
    if dim % 2 or dim > mixer.head_dim:
        raise ModelError(
            f"rotary_dim in config.json must be even and at most {mixer.head_dim}, the numbers of "
            f"a head, not {dim}"
        )
    layer = LayerSpec(replace(mixer, rope=Rope(dim, 10000.0)), _network(f), parallel="one norm")
    tied = f.flag("tie_word_embeddings", False)
    return _decoder(
        f,
        [layer] * f.layers("n_layer"),
        positions=None,
        tied_head=tied,
        head_bias=not tied,
    )


def _neo(f: Fields) -> ModelSpec:
    hidden, heads, count = f.size("hidden_size"), f.size("num_heads"), f.layers("num_layers")
    mixer = AttentionSpec(heads, heads, head_size(hidden, heads), 1.0, out_bias=True)
    windowed = replace(mixer, window=f.size("window_size", 256))
    kinds = {"global": mixer, "local": windowed}
    ffn = plain(
        f.size("intermediate_size", 4 * hidden), activation(f, "activation_function", "gelu_new")
    )
    rows = f.size("max_position_embeddings", 2048)
    return ModelSpec(
        hidden=hidden,
        vocab=f.size("vocab_size"),
        layers=tuple(LayerSpec(kinds[kind], ffn) for kind in _neo_kinds(f, count)),
        norm=_norm(f),
        context=rows,
        tied_head=f.flag("tie_word_embeddings", True),
        positions=LearnedPositions(rows),
    )


def _neo_kinds(f: Fields, count: int) -> list[str]:
    """ "global" or "local" for each layer: [[["global", "local"], 12]] says it 12 times."""
    given = f.items("attention_types") or [[["global", "local"], 12]]
    kinds: list[str] = []
    for entry in given:
        match entry:
            case [[*words], int(times)] if set(words) <= {"global", "local"}:
                kinds += words * times
            case _:
                raise ModelError(
                    "attention_types in config.json must hold lists of global and local, each with "
                    f"how often it is repeated, not {short(entry)}"
                )
    if len(kinds) != count:
        raise ModelError(
            f"attention_types in config.json describes {len(kinds)} layers of {count} (num_layers)"
        )
    return kinds


_LINEAR = "qkv.weight out.weight up.weight down.weight"
_GPT2_LAYER = {
    "layers.{i}.mixer_norm": "ln_1",
    "layers.{i}.ffn_norm": "ln_2",
    "layers.{i}.mixer.qkv": "attn.c_attn",
    "layers.{i}.mixer.out": "attn.c_proj",
    "layers.{i}.ffn.up": "mlp.c_fc",
    "layers.{i}.ffn.down": "mlp.c_proj",
}
_HEAD = names("", both({"head": "lm_head"}))
_SPLIT = {"layers.{i}.mixer.qkv.weight": "q_proj.weight k_proj.weight v_proj.weight"}

_OUTER = {
    **_HEAD,
    **names("transformer.", {"embedding": "wte.weight", "positions": "wpe.weight"}),
    **names("transformer.", both({"norm": "ln_f"})),
}
GPT = {
    **_HEAD,
    **names(
        "transformer.", {"embedding": "tokens_embed.weight", "positions": "positions_embed.weight"}
    ),
    **names(
        "transformer.h.{i}.",
        both({"layers.{i}.mixer_sum_norm": "ln_1", "layers.{i}.ffn_sum_norm": "ln_2"}),
    ),
    **changed(names("transformer.h.{i}.", both(_GPT2_LAYER)), _LINEAR, transpose=True),
}
_BIG_CODE = {**_OUTER, **names("transformer.h.{i}.", both(_GPT2_LAYER))}
BIG_CODE = changed(_BIG_CODE, "qkv", by_group=True)
NEO = {
    **_BIG_CODE,
    **names("transformer.h.{i}.attn.attention.", _SPLIT),
    **names("transformer.h.{i}.attn.attention.", both({"layers.{i}.mixer.out": "out_proj"})),
}
_ROTARY_LAYER = {
    "layers.{i}.mixer_norm": "ln_1",
    "layers.{i}.mixer.out": "attn.out_proj",
    "layers.{i}.ffn.up": "mlp.fc_in",
    "layers.{i}.ffn.down": "mlp.fc_out",
}
_ROTARY = {**_OUTER, **names("transformer.h.{i}.", both(_ROTARY_LAYER))}
GPTJ = {**_ROTARY, **changed(names("transformer.h.{i}.attn.", _SPLIT), "qkv", pairs=True)}
_FUSED = {"layers.{i}.mixer.qkv.weight": "qkv_proj.weight"}
CODEGEN = {
    **_ROTARY,
    **changed(names("transformer.h.{i}.attn.", _FUSED), "qkv", pairs=True, quarters=True),
}

_IGNORED = ("attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")


def _family(models: str, spec: Any, table: Any, about: str) -> Family:
    return Family(models, spec, table, about, base="transformer.", ignored=_IGNORED)


FAMILIES = {
    "OpenAIGPTLMHeadModel": _family(
        "GPT", _gpt, GPT, "norms behind each sum, learned positions, transposed weights"
    ),
    "GPTNeoForCausalLM": _family(
        "GPT-Neo, TinyStories", _neo, NEO, "a window on every other layer, scores not scaled"
    ),
    "GPTJForCausalLM": _family(
        "GPT-J, GPT4All-J",
        _rotary,
        GPTJ,
        "mixer and network in parallel, rotary embedding in pairs, a head with biases",
    ),
    "CodeGenForCausalLM": _family(
        "CodeGen", _rotary, CODEGEN, "as GPT-J; QKV fused in four parts, each query, value, key"
    ),
    "GPTBigCodeForCausalLM": _family(
        "StarCoder, SantaCoder", _big_code, BIG_CODE, "one key-value head, learned positions"
    ),
}
