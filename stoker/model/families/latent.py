"""Latent attention: DeepSeek V2 and V3 and the models of their shape, with experts or without."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError
from stoker.model.families.experts import (
    after_dense,
    balanced_routing,
    expert_names,
    experts,
    routing,
    shared_names,
    sparse_layers,
    ways,
)
from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, activation, decoder, head_size
from stoker.model.families.rope import given_rope, growth, rope, yarn_growth
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.latent import LatentSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import From, Names, changed, names
from stoker.ops.routing import Routing

MLP = LAYER + "mlp."
COUNTS = ("n_routed_experts", "num_local_experts", "num_experts")


def latent(
    f: Fields, query_rank: int | None = 1536, theta: float = 10000.0, **changes: Any
) -> LatentSpec:
    """Latent attention with DeepSeek's fields; `changes` are fields of `LatentSpec`.

    Args:
        f: the config.
        query_rank: where the config has no q_lora_rank; null there means none.
        theta: base of the rotary embedding where the config names none.
    """
    heads = f.size("num_attention_heads")
    f.insist("num_key_value_heads", heads, heads)
    plain, shared = f.size("qk_nope_head_dim", 128), f.size("qk_rope_head_dim", 64)
    partial = "partial_rotary_factor" in given_rope(f)  # of a whole head
    mixer = LatentSpec(
        heads=heads,
        rank=f.size("kv_lora_rank", 512),
        plain_dim=plain,
        shared_dim=shared,
        value_dim=f.size("v_head_dim", 128),
        scale=(plain + shared) ** -0.5 * _sharpness(f),
        eps=1e-6,  # whatever the model's other norms have
        query_rank=f.size("q_lora_rank", f.default_or_null("q_lora_rank", query_rank)),
        rope=rope(f, plain + shared if partial else shared, theta=theta),
        bias=f.flag("attention_bias"),
        **changes,
    )
    if mixer.rope is not None and mixer.rope.dim > shared:
        raise ModelError(
            f"config.json asks for a rotary embedding of {mixer.rope.dim} numbers of a head, of "
            f"which qk_rope_head_dim {shared} are to be rotated"
        )
    if mixer.bias and mixer.query_rank is None:
        raise ModelError(
            "attention_bias=True in config.json with q_lora_rank null is not supported"
        )
    return mixer


def _sharpness(f: Fields) -> float:
    """What yarn multiplies scores by: the square of its growth by mscale_all_dim."""
    given = Fields(given_rope(f), f.architecture)
    weight = given.number("mscale_all_dim", 0.0)
    if given.values.get("rope_type", given.values.get("type", "default")) == "default":
        return 1.0
    return yarn_growth(weight, given.number("factor", above=0)) ** 2 if weight else 1.0


def _mixture(f: Fields, routes: Routing, shared: int = 1) -> ExpertsSpec:
    """Experts, and shared ones that together are one network, as wide as all of them."""
    f.insist("moe_layer_freq", 1, 1)
    count = f.size("n_shared_experts", shared)
    size = f.size("moe_intermediate_size")
    return experts(
        f, routes, "moe_intermediate_size", shared=DenseSpec(count * size, activation(f))
    )


def _deepseek_v2(f: Fields) -> ModelSpec:
    f.insist("mlp_bias", False, False)
    f.insist("norm_topk_prob", False, False)
    f.insist("scoring_func", "softmax", "softmax")
    changes: dict[str, Any] = {"scale": f.number("routed_scaling_factor", 1.0)}
    known = ("greedy", "group_limited_greedy")
    if f.choice("topk_method", known, "choice of experts", "greedy") != "greedy":
        changes |= {"groups": f.size("n_group"), "top_groups": f.size("topk_group")}
    mixture = _mixture(f, routing(f, COUNTS, **changes), shared=2)
    return decoder(f, latent(f, pairs=True), ffn=sparse_layers(f, mixture, after_dense(f)))


def _deepseek_v3(f: Fields, dense: int = 3, **changes: Any) -> ModelSpec:
    """V3, in which the first `dense` layers have no experts where the config does not say it."""
    f.insist("topk_method", "noaux_tc", "noaux_tc")
    f.insist("scoring_func", "sigmoid", "sigmoid")
    routes = balanced_routing(
        f,
        counts=COUNTS,
        groups=f.size("n_group", f.default_or_null("n_group", 8) or 1),
        top_groups=f.size("topk_group", f.default_or_null("topk_group", 4) or 1),
        scale=f.number("routed_scaling_factor", 2.5),
    )
    return decoder(
        f,
        latent(f, pairs=f.flag("rope_interleave", True)),
        ffn=sparse_layers(f, _mixture(f, routes), after_dense(f, dense)),
        **changes,
    )


def _glm4_moe_lite(f: Fields) -> ModelSpec:
    f.values.setdefault("n_group", 1)
    f.values.setdefault("topk_group", 1)
    f.values.setdefault("routed_scaling_factor", 1.8)
    return _deepseek_v3(f, dense=1)


def _sparse(f: Fields) -> ModelSpec:
    """V3 whose queries see no more than index_topk keys, chosen by an indexer: within a context
    of so many tokens they see all, and the indexer's choice makes no difference."""
    f.insist("rope_interleave", True, True)
    spec = _deepseek_v3(f)
    return replace(spec, context=min(spec.context, f.size("index_topk", 2048)))


def _glm_moe_dsa(f: Fields) -> ModelSpec:
    for name in ("n_group", "topk_group"):
        f.values.setdefault(name, 1)
    return _sparse(f)


def _axk1(f: Fields) -> ModelSpec:
    spec = _deepseek_v3(f, dense=1)
    layers = [
        replace(layer, ffn=replace(layer.ffn, normed=True))
        if isinstance(layer.ffn, ExpertsSpec)
        else layer
        for layer in spec.layers
    ]
    return replace(spec, layers=tuple(layers))


def _youtu(f: Fields) -> ModelSpec:
    return decoder(f, latent(f, pairs=f.flag("rope_interleave", True)), tied=True)


def _minicpm3(f: Fields) -> ModelSpec:
    hidden, heads, layers = f.size("hidden_size"), f.size("num_attention_heads"), f.layers()
    f.values.setdefault("v_head_dim", head_size(hidden, heads))
    for name, size in (
        ("kv_lora_rank", 256),
        ("qk_nope_head_dim", 64),
        ("qk_rope_head_dim", 32),
    ):
        f.values.setdefault(name, size)
    depth = f.number("scale_depth", f.default_or_null("scale_depth", 1.4))
    base = f.number("dim_model_base", f.default_or_null("dim_model_base", 256), above=0)
    return decoder(
        f,
        latent(f, query_rank=768),
        tied=True,
        layer={"residual_scale": 1.0 if depth is None else depth / math.sqrt(layers)},
        embedding_scale=f.number("scale_emb", 12.0),
        logit_scale=1.0 if base is None else base / hidden,
    )


def _mistral4(f: Fields) -> ModelSpec:
    routes = routing(
        f,
        COUNTS,
        groups=f.size("n_group", f.default_or_null("n_group", 1) or 1),
        top_groups=f.size("topk_group", f.default_or_null("topk_group", 1) or 1),
        group_best=2,
        normalised=f.flag("norm_topk_prob", True),
        scale=f.number("routed_scaling_factor", 1.0),
    )
    mixer = latent(f, 1024, pairs=f.flag("rope_interleave", True), growth=growth(f))
    return decoder(f, mixer, ffn=sparse_layers(f, _mixture(f, routes), after_dense(f)))


_ATTENTION = {
    "layers.{i}.mixer.q_down.weight": "q_a_proj.weight",
    "layers.{i}.mixer.q_down.bias": "q_a_proj.bias",
    "layers.{i}.mixer.q_norm.weight": "q_a_layernorm.weight",
    "layers.{i}.mixer.kv.weight": "kv_a_proj_with_mqa.weight",
    "layers.{i}.mixer.kv.bias": "kv_a_proj_with_mqa.bias",
    "layers.{i}.mixer.kv_norm.weight": "kv_a_layernorm.weight",
    "layers.{i}.mixer.kv_maps.weight": "kv_b_proj.weight",
}
LATENT: Names = {
    **LLAMA,
    **names(LAYER + "self_attn.", _ATTENTION),
    "layers.{i}.mixer.q.weight": ways(
        LAYER + "self_attn.q_b_proj.weight", LAYER + "self_attn.q_proj.weight"
    ),
}
DEEPSEEK: Names = {
    **LATENT,
    **expert_names(MLP),
    **shared_names(MLP + "shared_experts."),
    "layers.{i}.ffn.router.weight": From((MLP + "gate.weight",)),
    "layers.{i}.ffn.router.correction": From((MLP + "gate.e_score_correction_bias",)),
}
AXK1: Names = {
    **changed(DEEPSEEK, "correction", optional=True),
    "layers.{i}.ffn.sum_norm.weight": ways(
        LAYER + "post_mlp_layernorm.weight", MLP + "post_mlp_layernorm.weight"
    ),
}
INDEXER = tuple(
    f"indexer.{name}"
    for name in (
        "wq_b.weight",
        "wk.weight",
        "k_norm.weight",
        "k_norm.bias",
        "weights_proj.weight",
    )
)

FAMILIES = {
    "DeepseekV2ForCausalLM": Family(
        "DeepSeek V2, V2.5, V2-Lite and Coder V2",
        _deepseek_v2,
        DEEPSEEK,
        "latent attention, experts of the best groups, shared experts",
    ),
    "DeepseekV3ForCausalLM": Family(
        "DeepSeek V3, V3.1 and R1 (in bfloat16), Kimi K2, Moonlight, Sarvam 105B",
        _deepseek_v3,
        DEEPSEEK,
        "latent attention, experts by sigmoids and a correction, shared experts",
        drafts=True,
    ),
    "Glm4MoeLiteForCausalLM": Family(
        "GLM-4.7 Flash", _glm4_moe_lite, DEEPSEEK, "as DeepSeek V3", drafts=True
    ),
    "DeepseekV32ForCausalLM": Family(
        "DeepSeek V3.2 (in bfloat16)",
        _sparse,
        DEEPSEEK,
        "as DeepSeek V3, for contexts that its sparse attention sees whole: 2,048 tokens",
        ignored=("rotary_emb.inv_freq", *INDEXER),
        drafts=True,
    ),
    "GlmMoeDsaForCausalLM": Family(
        "GLM-5 (in bfloat16)",
        _glm_moe_dsa,
        DEEPSEEK,
        "as DeepSeek V3.2, for contexts of 2,048 tokens",
        ignored=("rotary_emb.inv_freq", *INDEXER),
        drafts=True,
    ),
    "AXK1ForCausalLM": Family(
        "A.X K1",
        _axk1,
        AXK1,
        "as DeepSeek V3, with a norm behind the experts",
        ignored=("rotary_emb.inv_freq", "post_mlp_layernorm.weight"),  # of dense layers
    ),
    "YoutuForCausalLM": Family("Youtu-LLM 2B", _youtu, LATENT, "latent attention, dense networks"),
    "MiniCPM3ForCausalLM": Family(
        "MiniCPM3 4B",
        _minicpm3,
        LATENT,
        "latent attention, multipliers on embeddings, residuals and logits",
    ),
    "Mistral4ForCausalLM": Family(
        "Mistral Small 4 (its text model)",
        _mistral4,
        DEEPSEEK,
        "latent attention, experts by softmax, queries that grow with their position",
    ),
}
