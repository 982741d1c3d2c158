"""MiniMax-Text-01: lightning attention, softmax attention and experts, on weighted residuals."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.experts import experts, routing
from stoker.model.families.fields import Fields
from stoker.model.families.layer_kinds import attention_layers
from stoker.model.families.mixtures import MIXTRAL
from stoker.model.families.parts import LAYER, Family, activation, attention, decoder
from stoker.model.spec.lightning import LightningSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.weights import From, names


def _minimax(f: Fields) -> ModelSpec:
    types = attention_layers(f, lambda index: (index + 1) % 2 == 1)
    full = attention(f, theta=1e6, window=f.size("sliding_window", None))
    mixture = experts(f, routing(f, normalised=True), "intermediate_size")
    mixers = [full if attends else _lightning(f, index) for index, attends in enumerate(types)]
    model = decoder(f, mixers, ffn=mixture)
    network = _weights(f, "mlp")
    of_type = {True: _weights(f, "full_attn"), False: _weights(f, "linear_attn")}
    layers = (
        replace(layer, normed_residual=(of_type[attends], network))
        for layer, attends in zip(model.layers, types, strict=True)
    )
    return replace(model, layers=tuple(layers))


def _weights(f: Fields, part: str) -> tuple[float, float]:
    """Of what goes into a part and of what comes out, in their sum."""
    alpha, beta = (f.number(f"{part}_{name}_factor", 1.0) for name in ("alpha", "beta"))
    return float(alpha), float(beta)


def _lightning(f: Fields, index: int) -> LightningSpec:
    heads, hidden = f.size("num_attention_heads"), f.size("hidden_size")
    gentler = 1 - index / (f.layers() - 1 + 1e-5) + 1e-5  # in later layers
    slopes = tuple(2 ** (-8 * (head + 1) / heads) * gentler for head in range(heads))
    return LightningSpec(slopes, f.size("head_dim", hidden // heads), activation(f), eps=1e-6)


MINIMAX = {
    **MIXTRAL,
    # queries, keys and values of a head lie side by side; here they are the parts 2, 1 and 0
    "layers.{i}.mixer.in_proj.weight": From(
        (LAYER + "self_attn.qkv_proj.weight", LAYER + "self_attn.output_gate.weight"),
        fills=((2, 1, 0), (3,)),
        by_group=True,
    ),
    **names(
        LAYER + "self_attn.",
        {
            "layers.{i}.mixer.norm.weight": "norm.weight",
            "layers.{i}.mixer.out_proj.weight": "out_proj.weight",
        },
    ),
}

FAMILIES = {
    "MiniMaxForCausalLM": Family(
        "MiniMax-Text-01 (the -hf release)",
        _minimax,
        MINIMAX,
        "lightning attention with softmax attention between, experts, weighted residuals",
        ignored=(
            "rotary_emb.inv_freq",
            "slope_rate",
            "query_decay",
            "key_decay",
            "diagonal_decay",
        ),
    ),
}
