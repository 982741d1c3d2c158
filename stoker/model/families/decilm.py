"""DeciLM and Llama-Nemotron: decoders whose layers a search has made different.

Each entry of `block_configs` says what a layer has (Puzzle, Bercovich et al., 2024;
Llama-Nemotron, Bercovich et al., 2025). The fields and the rounding of sizes are those of
configuration_decilm.py and block_config.py, which NVIDIA publishes beside the weights of
nvidia/Llama-3_1-Nemotron-51B-Instruct and nvidia/Llama-3_3-Nemotron-Super-49B-v1:

    {"attention": {"n_heads_in_group": 8}, "ffn": {"ffn_mult": 2.625}}      64 / 8 = 8 KV heads;
                                                int(2 * 2.625 * 8192 / 3) = 14336, a multiple of 256
    {"attention": {"no_op": true}, "ffn": {"ffn_mult": 5.25}}               no attention
    {"attention": {"replace_with_linear": true}, "ffn": {"no_op": true}}    x += W norm(x), no more

DeciLM-7B has the key-value heads of its layers in `num_key_value_heads_per_layer` instead.
"""

from __future__ import annotations

from dataclasses import replace

from stoker.errors import ModelError, suggest
from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
)
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec, LinearMapSpec
from stoker.model.spec.part import PartSpec
from stoker.model.weights import names
from stoker.ops.rounding import ceil_div

MULTIPLE = 256  # sizes of networks given by a multiplier are rounded up to multiples of it
ABSENT = (None, False)  # values by which a field says that it changes nothing


def _decilm(f: Fields) -> ModelSpec:
    count = f.layers()
    blocks = f.items("block_configs", count)
    if blocks is None:
        return _by_kv_heads(f, count)
    # which heads the layers have is not said outside the blocks
    full = attention(f, kv_heads=f.size("num_attention_heads"))
    mixers: list[PartSpec | None] = []
    networks: list[PartSpec | None] = []
    for index, block in enumerate(blocks):
        path = f"block_configs[{index}]"
        if not isinstance(block, dict):
            raise ModelError(f"{path} in config.json must be an object, not {block!r}")
        fields = Fields(block, f.architecture, f"{path}.")
        _refuse_others(fields, ("attention", "ffn"))
        mixers.append(_mixer(f, fields.within("attention"), full))
        networks.append(_network(f, fields.within("ffn")))
    return decoder(f, mixers, ffn=networks)


def _by_kv_heads(f: Fields, count: int) -> ModelSpec:
    heads = f.items("num_key_value_heads_per_layer", count)
    if heads is None:
        raise ModelError(
            f"config.json of {f.architecture} lacks the field 'block_configs' "
            "(or 'num_key_value_heads_per_layer')"
        )
    for one in heads:
        if type(one) is not int or one < 1:
            raise ModelError(
                f"num_key_value_heads_per_layer in config.json must hold whole numbers, not {one!r}"
            )
    full = attention(f, kv_heads=f.size("num_attention_heads"))
    return decoder(f, [replace(full, kv_heads=one) for one in heads])


def _mixer(f: Fields, block: Fields, full: AttentionSpec) -> PartSpec | None:
    """The mixer of `block`; `full` has a key-value head for each query head."""
    _refuse_others(
        block, ("no_op", "replace_with_linear", "n_heads_in_group", "num_key_value_heads")
    )
    if _absent(block):
        return None
    if block.flag("replace_with_linear"):
        return LinearMapSpec(bias=f.flag("attention_bias"))
    if "num_key_value_heads" in block.values:
        return replace(full, kv_heads=block.size("num_key_value_heads"))
    group = block.size("n_heads_in_group")
    if full.heads % group:
        raise ModelError(
            f"{block.path}n_heads_in_group in config.json must divide the {full.heads} attention "
            f"heads, which {group} does not"
        )
    return replace(full, kv_heads=full.heads // group)


def _network(f: Fields, block: Fields) -> PartSpec | None:
    _refuse_others(block, ("no_op", "replace_with_linear", "ffn_mult", "intermediate_size"))
    if _absent(block):
        return None
    if block.flag("replace_with_linear"):
        return LinearMapSpec(bias=f.flag("mlp_bias"))
    if "intermediate_size" in block.values:
        size = block.size("intermediate_size")
    else:
        size = ffn_size(block.number("ffn_mult", above=0), f.size("hidden_size"))
    return DenseSpec(size, activation(f), bias=f.flag("mlp_bias"))


def ffn_size(multiplier: float, hidden: int) -> int:
    """The size of a network: two thirds of multiplier * hidden, up to a multiple of 256."""
    size = int(2 * round(multiplier, 6) * hidden / 3)
    return ceil_div(size, MULTIPLE) * MULTIPLE


def _absent(block: Fields) -> bool:
    """Whether the part is left out."""
    absent = block.flag("no_op")
    if absent and block.flag("replace_with_linear"):
        raise ModelError(
            f"{block.path}no_op and {block.path}replace_with_linear in config.json are both true; "
            "a part is either left out or replaced"
        )
    return absent


def _refuse_others(block: Fields, known: tuple[str, ...]) -> None:
    """Refuse fields beside the known ones that ask for anything."""
    for name, value in block.values.items():
        if name not in known and value not in ABSENT:
            raise ModelError(
                f"{block.path}{name}={value!r} in config.json is not supported; "
                f"{suggest(name, [*known])}"
            )


DECILM = {
    **LLAMA,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.linear.weight": "self_attn.linear_attn.weight",
            "layers.{i}.mixer.linear.bias": "self_attn.linear_attn.bias",
            "layers.{i}.ffn.linear.weight": "mlp.linear_mlp.weight",
            "layers.{i}.ffn.linear.bias": "mlp.linear_mlp.bias",
        },
    ),
}

FAMILIES = {
    "DeciLMForCausalLM": Family(
        "Llama-Nemotron (51B, Super 49B, Ultra 253B), DeciLM-7B",
        _decilm,
        DECILM,
        "`block_configs`: key-value heads and network sizes of each layer, attention or network "
        "left out or replaced by a linear map",
    ),
}
