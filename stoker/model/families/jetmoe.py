"""JetMoE: mixtures of attention heads and of networks."""

from __future__ import annotations

from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, activation, decoder
from stoker.model.families.rope import rope
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.head_experts import HeadExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import names
from stoker.ops.routing import Routing


def _jetmoe(f: Fields) -> ModelSpec:
    groups, head_dim = f.size("num_key_value_heads", 16), f.size("kv_channels", 128)
    routes = Routing(
        f.size("num_local_experts", 8), f.size("num_experts_per_tok", 2), scores="softmax of chosen"
    )
    heads = groups * routes.active
    f.insist("num_attention_heads", heads, heads)
    mixer = HeadExpertsSpec(
        heads=heads,
        kv_heads=groups,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope(f, head_dim),
        experts=ExpertsSpec(routes, DenseSpec(groups * head_dim, gated=False), bias=True),
    )
    expert = DenseSpec(f.size("intermediate_size", 5632), activation(f, "activation_function"))
    return decoder(
        f,
        mixer,
        ffn=ExpertsSpec(routes, expert, bias=True),
        norm=NormSpec("rms", 1e-6),  # of the layers, whatever the config says of the last
        tied=True,
        final_eps=f.number("rms_norm_eps", 1e-6),
    )


_EXPERTS = {
    "router.weight": "router.layer.weight",
    "expert_up.weight": "input_linear.weight",
    "expert_down.weight": "output_linear.weight",
    "bias": "bias",
}
JETMOE = {
    **LLAMA,
    **names(LAYER, {"layers.{i}.mixer.qkv.weight": "self_attention.kv_proj.weight"}),
    **{
        name: source
        for ours, block in (("mixer", "self_attention.experts."), ("ffn", "mlp."))
        for name, source in names(
            LAYER + block,
            {f"layers.{{i}}.{ours}.{one}": stored for one, stored in _EXPERTS.items()},
        ).items()
    },
}

FAMILIES = {
    "JetMoeForCausalLM": Family(
        "JetMoE 8B", _jetmoe, JETMOE, "experts of attention heads, and of networks"
    ),
}
