"""Ling 3 (Bailing hybrid): delta nets that decay by channel, and latent attention with gates."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.delta import apart_or_joined
from stoker.model.families.experts import (
    after_dense,
    balanced_routing,
    either,
    experts,
    sparse_layers,
)
from stoker.model.families.fields import Fields
from stoker.model.families.latent import DEEPSEEK, latent
from stoker.model.families.layer_kinds import attention_layers
from stoker.model.families.parts import LAYER, Family, activation, decoder
from stoker.model.spec.delta import DeltaSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import From, Names, names
from stoker.ops.delta_rule import DeltaRule


def _bailing(f: Fields) -> ModelSpec:
    if "model_max_length" in f.values:
        f.values["max_position_embeddings"] = f.size("model_max_length")
    if not f.within("rope_parameters").values:
        f.values.setdefault("rope_theta", 6e6)
    group = f.size("layer_group_size", 6)
    full = replace(latent(f, None, pairs=True), gates_heads=True)
    net = _delta_attention(f)
    size = f.size("moe_intermediate_size")
    shared = either(f, "num_shared_experts", "n_shared_experts", default=1)
    routes = balanced_routing(
        f,
        counts=("num_experts", "num_local_experts"),
        actives=("num_experts_per_token", "num_experts_per_tok"),
        groups=either(f, "num_expert_group", "n_group", default=8),
        top_groups=f.size("topk_group", 4),
        normalised=f.flag("moe_renormalize", f.flag("norm_topk_prob", True)),
        scale=f.number("routed_scaling_factor", 2.5),
    )
    network = DenseSpec(shared * size, activation(f))
    mixture = experts(f, routes, "moe_intermediate_size", shared=network)
    types = attention_layers(f, lambda index: (index + 1) % group == 0)
    return decoder(
        f,
        [full if attends else net for attends in types],
        ffn=sparse_layers(f, mixture, after_dense(f, 2)),
    )


def _delta_attention(f: Fields) -> DeltaSpec:
    f.insist("hidden_act", "silu", "silu")  # of the convolution
    # transformers saves head_dim as that of latent attention, and the linear one beside it
    heads = f.size("linear_num_heads", f.size("num_attention_heads"))
    size = f.size("linear_head_dim", f.size("head_dim", 128))
    taps = f.size("linear_conv_kernel_dim", f.size("short_conv_kernel_size", 4))
    bound = f.number("kda_lower_bound", -5.0, most=-1e-6) if f.flag("kda_safe_gate", True) else 0.0
    eps = f.number("rms_norm_eps", 1e-6, above=0)
    rule = DeltaRule(
        heads, heads, size, size, by_channel=True, bound=bound, gate="sigmoid", eps=eps
    )
    return DeltaSpec(rule, taps)


def _below_attention(source: From) -> From:
    """The source with its tensors below "attention.", as they are published."""
    return replace(
        source,
        tensors=tuple(one.replace(".self_attn.", ".attention.") for one in source.tensors),
        otherwise=tuple(_below_attention(one) for one in source.otherwise),
    )


_MIXER = LAYER + "attention."
BAILING: Names = {
    **{ours: _below_attention(source) for ours, source in DEEPSEEK.items()},
    **names(
        _MIXER,
        {
            "layers.{i}.mixer.in_proj.weight": "q_proj.weight k_proj.weight v_proj.weight "
            "g_proj.weight b_proj.weight f_proj.weight",
            "layers.{i}.mixer.decay.log_rate": "A_log",
            "layers.{i}.mixer.decay.bias": "dt_bias",
            "layers.{i}.mixer.norm.weight": "o_norm.weight",
            "layers.{i}.mixer.out_proj.weight": "dense.weight",
            "layers.{i}.mixer.gates.weight": "g_proj.weight",
            "layers.{i}.mixer.out.weight": "dense.weight",
        },
    ),
    "layers.{i}.mixer.conv.weight": apart_or_joined(_MIXER),
    "layers.{i}.ffn.router.correction": From((LAYER + "mlp.gate.expert_bias",)),
    "embedding": From(("model.word_embeddings.weight",)),
}

FAMILIES = {
    "BailingHybridForCausalLM": Family(
        "Ling 3.0 Flash",
        _bailing,
        BAILING,
        "delta nets that decay by channel, latent attention with gated heads, experts",
        drafts=True,
    ),
}
