"""Nemotron-H and Nemotron 3: layers of one part each."""

from __future__ import annotations

from stoker.errors import ModelError, short
from stoker.model.families.experts import balanced_routing
from stoker.model.families.fields import Fields
from stoker.model.families.layer_kinds import ATTENDS, STATE, kinds_of
from stoker.model.families.mamba import MAMBA2, mamba2, mixer_names
from stoker.model.families.parts import ATTENTION, LAYER, Family, activation, attention, decoder
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.weights import From, names
from stoker.ops.gated_norm import GateNorm

# the letters of Nemotron-H's hybrid_override_pattern
_LETTERS = {"M": STATE, "*": ATTENDS, "-": "mlp", "E": "moe"}


def _nemotron_kinds(f: Fields) -> list[str]:
    kinds = kinds_of(f, tuple(_LETTERS.values()), "layers_block_type", "layer_types")
    if kinds is None:
        pattern = f.values.get("hybrid_override_pattern", "")
        f.read.add("hybrid_override_pattern")
        if not isinstance(pattern, str) or not pattern or set(pattern) - _LETTERS.keys():
            raise ModelError(
                f"{f.named('hybrid_override_pattern')} must be letters of "
                f"{' '.join(_LETTERS)}, one for each layer, not {short(pattern)}"
            )
        kinds = [_LETTERS[letter] for letter in pattern]
    if not kinds:
        raise ModelError("layers_block_type in config.json names no layer")
    if f.size("num_hidden_layers", len(kinds)) != len(kinds):
        raise ModelError(
            f"config.json gives the kinds of {len(kinds)} layers, and num_hidden_layers "
            f"{f.layers()}"
        )
    return kinds


def _nemotron_experts(f: Fields, act: str, bias: bool) -> ExpertsSpec:
    return ExpertsSpec(
        balanced_routing(f),
        DenseSpec(f.size("moe_intermediate_size"), act, gated=False),
        shared=DenseSpec(f.size("moe_shared_expert_intermediate_size"), act, False, bias),
        latent=f.size("moe_latent_size", None),
    )


def _nemotron_h(f: Fields) -> ModelSpec:
    """Layers of one part each. Steps have a least size, as transformers has it in a prefill."""
    f.insist("mamba_hidden_act", "silu", "silu")
    f.insist("sliding_window", None, None)
    kinds = _nemotron_kinds(f)
    norm = NormSpec("rms", f.number("layer_norm_epsilon", 1e-5, above=0))
    head_dim = f.size("head_dim", None) or f.size("attention_head_dim", 128)
    mixer = attention(f, head_dim=head_dim, scale=head_dim**-0.5, rope=None)
    groups = f.size("mamba_n_groups", None) or f.size("n_groups", 8)
    heads, dim, bias = (
        f.size("mamba_num_heads", 128),
        f.size("mamba_head_dim", 64),
        f.flag("use_bias"),
    )
    state = mamba2(
        f,
        heads * dim,
        heads,
        dim,
        groups=groups,
        state=f.size("ssm_state_size", 128),
        taps=f.size("mamba_d_conv", None) or f.size("conv_kernel", 4),
        norm=GateNorm(groups, norm.eps),
        limit=(f.number("mamba_dt_min", f.number("time_step_min", 0.001)), float("inf")),
        bias=bias,
        out_bias=bias,
        conv_bias=f.flag("mamba_conv_bias", f.flag("use_conv_bias", True)),
    )
    act, wide = activation(f, "mlp_hidden_act", "relu2"), f.flag("mlp_bias")
    parts: dict[str, tuple[PartSpec | None, PartSpec | None]] = {
        STATE: (state, None),
        ATTENDS: (mixer, None),
    }
    if "mlp" in kinds:
        parts["mlp"] = (None, DenseSpec(f.size("intermediate_size"), act, False, wide))
    if "moe" in kinds:
        parts["moe"] = (None, _nemotron_experts(f, act, wide))
    mixers, networks = zip(*(parts[kind] for kind in kinds), strict=True)
    f.values.setdefault("num_hidden_layers", len(kinds))
    return decoder(f, mixers, ffn=networks, norm=norm)


_MIXER = LAYER + "mixer."
NEMOTRON_H = {
    "embedding": From(("model.embeddings.weight",)),
    "norm.weight": From(("model.norm_f.weight",)),
    "head.weight": From(("lm_head.weight",)),
    "layers.{i}.mixer_norm.weight": From((LAYER + "norm.weight",)),
    "layers.{i}.ffn_norm.weight": From((LAYER + "norm.weight",)),
    **mixer_names(_MIXER, MAMBA2),
    **names(_MIXER, ATTENTION),
    **names(
        _MIXER,
        {
            "layers.{i}.ffn.up.weight": "up_proj.weight",
            "layers.{i}.ffn.up.bias": "up_proj.bias",
            "layers.{i}.ffn.down.weight": "down_proj.weight",
            "layers.{i}.ffn.down.bias": "down_proj.bias",
            "layers.{i}.ffn.router.weight": "gate.weight",
            "layers.{i}.ffn.router.correction": "gate.e_score_correction_bias",
            "layers.{i}.ffn.shared.up.weight": "shared_experts.up_proj.weight",
            "layers.{i}.ffn.shared.up.bias": "shared_experts.up_proj.bias",
            "layers.{i}.ffn.shared.down.weight": "shared_experts.down_proj.weight",
            "layers.{i}.ffn.shared.down.bias": "shared_experts.down_proj.bias",
            "layers.{i}.ffn.to_latent.weight": "fc1_latent_proj.weight",
            "layers.{i}.ffn.from_latent.weight": "fc2_latent_proj.weight",
        },
    ),
    "layers.{i}.ffn.expert_up.weight": From(
        (_MIXER + "experts.{e}.up_proj.weight",), otherwise=(From((_MIXER + "experts.up_proj",)),)
    ),
    "layers.{i}.ffn.expert_down.weight": From(
        (_MIXER + "experts.{e}.down_proj.weight",),
        otherwise=(From((_MIXER + "experts.down_proj",)),),
    ),
}

FAMILIES = {
    "NemotronHForCausalLM": Family(
        "Nemotron-H, Nemotron Nano 2, Nemotron 3 Nano and Super",
        _nemotron_h,
        NEMOTRON_H,
        "layers of one part each: Mamba 2, attention without positions, a network, or experts",
        renamed=(("backbone.", "model."),),
        beside=("mtp.",),
    ),
}
