"""What Stoker knows of each model family: config to `ModelSpec`, and the names of its weights.

A family is a row of `FAMILIES`. Behaviour that families share is a field of the spec; a branch
on a family's name anywhere else is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stoker.errors import ModelError, suggest
from stoker.model.spec import Attention, Dense, Layer, Llama3Scaling, ModelSpec, Rope
from stoker.ops.activation import GATED

Config = Mapping[str, Any]
# our parameter -> the checkpoint's tensors, stacked along the first axis; {i} is the layer
Names = Mapping[str, tuple[str, ...]]


# fields that count something, in whatever family they occur
SIZES = (
    "hidden_size",
    "vocab_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "sliding_window",
)


@dataclass(frozen=True)
class Family:
    spec: Callable[[Config], ModelSpec]
    names: Names
    ignored: tuple[str, ...] = ()  # endings of checkpoint names that hold nothing to load


def spec_from_config(config: Config) -> tuple[ModelSpec, Family]:
    """The spec and family of a Hugging Face config.

    Raises:
        ModelError: no architecture, an unknown one, or a field that is missing or not supported.
    """
    architectures = config.get("architectures")
    if not architectures:
        raise ModelError(
            'config.json names no architecture; add "architectures": ["..."], '
            f"one of: {', '.join(sorted(FAMILIES))}"
        )
    name = architectures[0]
    if name not in FAMILIES:
        raise ModelError(f"architecture {name!r} is not supported; {suggest(name, [*FAMILIES])}")
    if config.get("quantization_config"):
        raise ModelError(
            "quantised checkpoints are not supported; use a float32, bfloat16 or float16 one"
        )
    for field in SIZES:
        value = config.get(field)
        if value is not None and (type(value) is not int or value < 1):
            raise ModelError(f"{field} in config.json must be a whole number, not {value!r}")
    try:
        return FAMILIES[name].spec(config), FAMILIES[name]
    except KeyError as missing:
        raise ModelError(f"config.json of {name} lacks the field {missing}") from None


def _rope(config: Config, head_dim: int) -> Rope:
    """Both forms: rope_theta beside rope_scaling, or rope_parameters holding everything."""
    fields = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(fields.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
        return Rope(head_dim, theta)
    if kind == "llama3":
        return Rope(
            head_dim,
            theta,
            Llama3Scaling(
                fields["factor"],
                fields["low_freq_factor"],
                fields["high_freq_factor"],
                fields["original_max_position_embeddings"],
            ),
        )
    raise ModelError(f"rope type {kind!r} is not supported; {suggest(kind, ['default', 'llama3'])}")


def _decoder(config: Config, mixer: Attention) -> ModelSpec:
    """The plain pre-norm decoder that most families are."""
    activation = config.get("hidden_act", "silu")
    if activation not in GATED:
        raise ModelError(
            f"activation {activation!r} is not supported; {suggest(activation, [*GATED])}"
        )
    ffn = Dense(config["intermediate_size"], activation, bool(config.get("mlp_bias", False)))
    return ModelSpec(
        hidden=config["hidden_size"],
        vocab=config["vocab_size"],
        layers=(Layer(mixer, ffn),) * config["num_hidden_layers"],
        norm_eps=config["rms_norm_eps"],
        context=config["max_position_embeddings"],
        tied_head=bool(config.get("tie_word_embeddings", False)),
    )


def _attention(config: Config) -> Attention:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    bias = bool(config.get("attention_bias", False))
    return Attention(
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rope=_rope(config, head_dim),
        qkv_bias=bias,
        out_bias=bias,
    )


def _llama(config: Config) -> ModelSpec:
    return _decoder(config, _attention(config))


def _qwen3(config: Config) -> ModelSpec:
    spec = _decoder(config, replace(_attention(config), qk_norm=True))
    if not config.get("use_sliding_window"):
        return spec
    count = len(spec.layers)
    full = config.get("max_window_layers", count)
    kinds = config.get("layer_types") or [
        "sliding_attention" if index >= full else "full_attention" for index in range(count)
    ]
    if len(kinds) != count:
        raise ModelError(f"layer_types in config.json has {len(kinds)} entries for {count} layers")
    return replace(
        spec,
        layers=tuple(
            replace(layer, mixer=replace(layer.mixer, window=config["sliding_window"]))
            if kind == "sliding_attention"
            else layer
            for layer, kind in zip(spec.layers, kinds, strict=True)
        ),
    )


def _prefixed(prefix: str, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {ours: tuple(prefix + one for one in theirs.split()) for ours, theirs in names.items()}


_ATTN, _FFN = "model.layers.{i}.self_attn.", "model.layers.{i}.mlp."

LLAMA_NAMES: Names = {
    "embedding": ("model.embed_tokens.weight",),
    "norm.weight": ("model.norm.weight",),
    "head.weight": ("lm_head.weight",),
    "layers.{i}.mixer_norm.weight": ("model.layers.{i}.input_layernorm.weight",),
    "layers.{i}.ffn_norm.weight": ("model.layers.{i}.post_attention_layernorm.weight",),
    **_prefixed(
        _ATTN,
        {
            "layers.{i}.mixer.qkv.weight": "q_proj.weight k_proj.weight v_proj.weight",
            "layers.{i}.mixer.qkv.bias": "q_proj.bias k_proj.bias v_proj.bias",
            "layers.{i}.mixer.out.weight": "o_proj.weight",
            "layers.{i}.mixer.out.bias": "o_proj.bias",
        },
    ),
    **_prefixed(
        _FFN,
        {
            "layers.{i}.ffn.gate_up.weight": "gate_proj.weight up_proj.weight",
            "layers.{i}.ffn.gate_up.bias": "gate_proj.bias up_proj.bias",
            "layers.{i}.ffn.down.weight": "down_proj.weight",
            "layers.{i}.ffn.down.bias": "down_proj.bias",
        },
    ),
}

QWEN3_NAMES: Names = {
    **LLAMA_NAMES,
    "layers.{i}.mixer.q_norm.weight": (_ATTN + "q_norm.weight",),
    "layers.{i}.mixer.k_norm.weight": (_ATTN + "k_norm.weight",),
}

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(
        _llama, LLAMA_NAMES, ignored=("rotary_emb.inv_freq", "lm_head.weight")
    ),
    "Qwen3ForCausalLM": Family(_qwen3, QWEN3_NAMES, ignored=("lm_head.weight",)),
}
