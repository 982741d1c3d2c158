"""Kimi Linear: delta nets with decays of each channel, and latent attention without positions."""

from __future__ import annotations

from dataclasses import replace

from stoker.errors import ModelError, short
from stoker.model.families.delta import apart_or_joined
from stoker.model.families.experts import (
    after_dense,
    balanced_routing,
    expert_names,
    experts,
    shared_names,
    sparse_layers,
    ways,
)
from stoker.model.families.fields import Fields
from stoker.model.families.latent import LATENT, latent
from stoker.model.families.layer_kinds import attention_layers
from stoker.model.families.parts import LAYER, Family, activation, decoder
from stoker.model.spec.delta import DeltaSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import From, Names, names
from stoker.ops.delta_rule import DeltaRule


def _kimi_linear(f: Fields) -> ModelSpec:
    f.insist("mla_use_nope", True, True)
    f.insist("moe_layer_freq", 1, 1)
    f.insist("moe_router_activation_func", "sigmoid", "sigmoid")
    if "model_max_length" in f.values:
        f.values["max_position_embeddings"] = f.size("model_max_length")
    f.values.setdefault("max_position_embeddings", 1_048_576)
    full = replace(latent(f, None), rope=None)
    size, count = f.size("moe_intermediate_size", 1024), f.size("num_shared_experts", 1)
    f.values.setdefault("moe_intermediate_size", size)
    routes = balanced_routing(
        f,
        counts=("num_experts", "num_local_experts"),
        actives=("num_experts_per_token", "num_experts_per_tok"),
        groups=f.size("num_expert_group", 1),
        top_groups=f.size("topk_group", 1),
        normalised=f.flag("moe_renormalize", True),
        scale=f.number("routed_scaling_factor", 2.446),
    )
    shared = DenseSpec(count * size, activation(f))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    net = _delta_attention(f)
    return decoder(
        f,
        [full if attends else net for attends in _types(f)],
        ffn=sparse_layers(f, mixture, after_dense(f, 1)),
    )


def _delta_attention(f: Fields) -> DeltaSpec:
    """Kimi Delta Attention; its sizes are in linear_attn_config, or beside it."""
    f.insist("hidden_act", "silu", "silu")  # of the convolution
    given = f.within("linear_attn_config")
    heads = given.size("num_heads", f.size("linear_num_heads", 32))
    size = given.size("head_dim", f.size("linear_head_dim", 128))
    taps = given.size("short_conv_kernel_size", f.size("linear_conv_kernel_dim", 4))
    eps = f.number("rms_norm_eps", 1e-5, above=0)
    rule = DeltaRule(heads, heads, size, size, by_channel=True, gate="sigmoid", eps=eps)
    return DeltaSpec(rule, taps, decay_rank=size, gate_rank=size)


def _types(f: Fields) -> list[bool]:
    """Whether each layer is attention: by layer_types or linear_attn_config, counted from 1."""
    given, count = f.within("linear_attn_config"), f.layers()
    full, nets = (given.items(name) for name in ("full_attn_layers", "kda_layers"))
    if full is None or nets is None or "layer_types" in f.values:
        return attention_layers(f, lambda index: index > 0 and index % 4 == 0)
    if sorted([*full, *nets], key=str) != sorted(range(1, count + 1), key=str):
        raise ModelError(
            "full_attn_layers and kda_layers in linear_attn_config of config.json must hold each "
            f"number from 1 to {count} once, not {short(full)} and {short(nets)}"
        )
    return [index + 1 in full for index in range(count)]


_MLP, _MOE = LAYER + "mlp.", LAYER + "block_sparse_moe."
KIMI: Names = {
    **LATENT,
    **names(
        LAYER + "self_attn.",
        {
            "layers.{i}.mixer.in_proj.weight": "q_proj.weight k_proj.weight v_proj.weight "
            "g_a_proj.weight b_proj.weight f_a_proj.weight",
            "layers.{i}.mixer.gate_proj.weight": "g_b_proj.weight",
            "layers.{i}.mixer.decay_proj.weight": "f_b_proj.weight",
            "layers.{i}.mixer.decay.log_rate": "A_log",
            "layers.{i}.mixer.decay.bias": "dt_bias",
            "layers.{i}.mixer.norm.weight": "o_norm.weight",
            "layers.{i}.mixer.out_proj.weight": "o_proj.weight",
        },
    ),
    "layers.{i}.mixer.conv.weight": apart_or_joined(LAYER + "self_attn."),
    # transformers saves dense networks by the name of the sparse ones
    "layers.{i}.ffn.up.weight": From(
        (_MLP + "gate_proj.weight", _MLP + "up_proj.weight"),
        otherwise=(From((_MOE + "gate_proj.weight", _MOE + "up_proj.weight")),),
    ),
    "layers.{i}.ffn.down.weight": ways(_MLP + "down_proj.weight", _MOE + "down_proj.weight"),
    **expert_names(_MOE, "w1 w3 w2", _MLP),
    **shared_names(_MOE + "shared_experts.", _MLP + "shared_experts."),
    "layers.{i}.ffn.router.weight": ways(_MOE + "gate.weight", _MLP + "gate.weight"),
    "layers.{i}.ffn.router.correction": ways(
        _MOE + "gate.e_score_correction_bias", _MLP + "gate.e_score_correction_bias"
    ),
}

FAMILIES = {
    "KimiLinearForCausalLM": Family(
        "Kimi Linear 48B-A3B",
        _kimi_linear,
        KIMI,
        "delta nets that decay by channel, latent attention without positions, experts",
    ),
}
