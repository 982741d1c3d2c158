"""RecurrentGemma: Griffin's recurrent blocks, with local attention in every third layer."""

from __future__ import annotations

import torch

from stoker.errors import ModelError
from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    ATTENTION,
    FFN,
    OUTER,
    Family,
    activation,
    attention,
    decoder,
)
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import PartSpec
from stoker.model.spec.rg_lru import RgLruSpec
from stoker.model.weights import changed, names

TRAINED_ON = 8192  # tokens; the config names no limit


def _recurrent_gemma(f: Fields) -> ModelSpec:
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    f.insist("embeddings_scale_by_sqrt_dim", True, True)
    if f.size("head_dim", hidden // heads) != hidden // heads:
        raise ModelError(
            f"head_dim {f.size('head_dim')} in config.json is not supported; it must be "
            f"hidden_size / num_attention_heads, {hidden // heads}"
        )
    kind = activation(f, "hidden_activation", "gelu_pytorch_tanh")
    f.values.setdefault("max_position_embeddings", TRAINED_ON)
    recurrent = RgLruSpec(f.size("lru_width", hidden), heads, f.size("conv1d_width", 4), kind)
    window = f.size("attention_window_size", 2048)
    local = attention(f, partial=0.5, window=window, out_bias=True)
    size = f.size("intermediate_size")
    return decoder(
        f,
        _mixers(f, {"recurrent": recurrent, "attention": local}),
        ffn=DenseSpec(size // 2, kind, bias=True),
        tied=True,
        # transformers rounds the factor to bfloat16
        embedding_scale=torch.tensor(hidden**0.5).bfloat16().item(),
        logit_softcap=f.number("logits_soft_cap", 30.0, above=0),
    )


def _mixers(f: Fields, of: dict[str, PartSpec]) -> list[PartSpec]:
    """The mixers by block_types, which are repeated."""
    kinds = f.words("block_types", of, "kind of block")
    kinds = kinds or ["recurrent", "recurrent", "attention"]
    return [of[kinds[index % len(kinds)]] for index in range(f.layers())]


_LAYER = "model.layers.{i}."
_BLOCK = _LAYER + "temporal_block."
GRIFFIN = {
    **changed(
        {
            **names("", OUTER),
            **names("model.", {"norm.weight": "final_norm.weight"}),
            **names(
                _LAYER,
                {
                    "layers.{i}.mixer_norm.weight": "temporal_pre_norm.weight",
                    "layers.{i}.ffn_norm.weight": "channel_pre_norm.weight",
                },
            ),
        },
        "norm",
        plus=1.0,
    ),
    **names(_BLOCK, ATTENTION),
    **names(_LAYER + "mlp_block.", FFN),
    **names(
        _BLOCK,
        {
            "layers.{i}.mixer.in_proj.weight": "linear_y.weight linear_x.weight",
            "layers.{i}.mixer.in_proj.bias": "linear_y.bias linear_x.bias",
            "layers.{i}.mixer.conv.bias": "conv_1d.bias",
            "layers.{i}.mixer.gates.input_weight": "rg_lru.input_gate_weight",
            "layers.{i}.mixer.gates.input_bias": "rg_lru.input_gate_bias",
            "layers.{i}.mixer.gates.keep_weight": "rg_lru.recurrent_gate_weight",
            "layers.{i}.mixer.gates.keep_bias": "rg_lru.recurrent_gate_bias",
            "layers.{i}.mixer.rate.weight": "rg_lru.recurrent_param",
            "layers.{i}.mixer.out_proj.weight": "linear_out.weight",
            "layers.{i}.mixer.out_proj.bias": "linear_out.bias",
        },
    ),
    **changed(
        names(_BLOCK, {"layers.{i}.mixer.conv.weight": "conv_1d.weight"}), "conv", transpose=True
    ),
}

FAMILIES = {
    "RecurrentGemmaForCausalLM": Family(
        "RecurrentGemma 2B and 9B",
        _recurrent_gemma,
        GRIFFIN,
        "gated linear recurrences, attention with a window in every third layer",
    ),
}
