"""MiMo-V2-Flash: values narrower than keys, windows with sinks, experts by corrected sigmoids."""

from __future__ import annotations

from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.balanced import BALANCED
from stoker.model.families.experts import balanced_routing, experts, sparse_layers, ways
from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, Family, decoder, layer_types
from stoker.model.families.rope import LAYER_TYPES, given_rope, rope
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.part import NormSpec
from stoker.model.spec.value_widths import ValueWidthSpec

SHARE = 0.334  # of a head that is rotated


def _mimo(f: Fields) -> ModelSpec:
    f.insist("scoring_func", "sigmoid", "sigmoid")
    f.insist("topk_method", "noaux_tc", "noaux_tc")
    f.insist("n_shared_experts", None, None)
    count = f.layers()
    pattern = _switches(f, "hybrid_layer_pattern")
    slides = layer_types(f, lambda index: index > 0 and (index + 1) % 6 != 0)
    slides = slides if "layer_types" in f.values or pattern is None else pattern
    dense = _dense(f)
    size = "moe_intermediate_size"
    networks = sparse_layers(f, experts(f, balanced_routing(f), size), [not one for one in dense])
    eps = f.number("rms_norm_eps", f.number("layernorm_epsilon", 1e-5))
    both = [_mixer(f, slide) for slide in (False, True)]
    mixers = [both[one] for one in slides]
    assert len(mixers) == count
    return decoder(f, mixers, ffn=networks, norm=NormSpec("rms", eps))


def _mixer(f: Fields, slides: bool) -> ValueWidthSpec:
    """Of layers with a window or without, which differ in heads, sinks and rotary embedding."""
    heads, head_dim = f.size("num_attention_heads"), f.size("head_dim", 192)
    value_dim, groups = f.size("v_head_dim", 128), f.size("num_key_value_heads", 4)
    for name, wanted in (
        ("swa_num_attention_heads", heads),
        ("swa_head_dim", head_dim),
        ("swa_v_head_dim", value_dim),
    ):
        f.insist(name, wanted, wanted)
    changes: dict[str, Any] = {"sinks": f.flag("add_full_attention_sink_bias")}
    kind, own = "full_attention", f
    if slides:
        kind, groups = "sliding_attention", f.size("swa_num_key_value_heads", 2 * groups)
        # published configs count the keys before the query's own
        window = f.size("sliding_window_size", f.size("sliding_window", 129) - 1) + 1
        changes = {"window": window, "sinks": f.flag("add_swa_attention_sink_bias", True)}
        if not any(one in given_rope(f) for one in LAYER_TYPES):
            theta = f.number("swa_rope_theta", 10_000.0, above=1)
            own = Fields({**f.values, "rope_theta": theta}, f.architecture)
    return ValueWidthSpec(
        heads=heads,
        kv_heads=groups,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope(own, head_dim, theta=5e6, partial=SHARE, kind=kind),
        qkv_bias=f.flag("attention_bias"),
        value_dim=value_dim,
        value_scale=f.number("attention_value_scale", _value_scale(f), above=0),
        **changes,
    )


def _value_scale(f: Fields) -> float:
    found: float | None = f.default_or_null("attention_value_scale", 0.707)
    return 1.0 if found is None else found


def _dense(f: Fields) -> list[bool]:
    """Whether each layer has a dense network: by its type, or else the first alone."""
    count = f.layers()
    kinds = f.words("mlp_layer_types", ("dense", "sparse"), "network", count)
    if kinds is not None:
        return [kind == "dense" for kind in kinds]
    sparse = _switches(f, "moe_layer_freq")
    return [index == 0 for index in range(count)] if sparse is None else [not one for one in sparse]


def _switches(f: Fields, name: str) -> list[bool] | None:
    """A list of 0 or 1 for each layer; None if absent."""
    given = f.items(name, f.layers())
    if given is not None and not all(type(one) is int and one in (0, 1) for one in given):
        raise ModelError(f"{f.named(name)} must hold 0 or 1 for each layer, not {short(given)}")
    return None if given is None else [bool(one) for one in given]


MIMO = {
    **BALANCED,
    "layers.{i}.mixer.sinks": ways(
        LAYER + "self_attn.sinks", LAYER + "self_attn.attention_sink_bias"
    ),
}

FAMILIES = {
    "MiMoV2FlashForCausalLM": Family(
        "MiMo-V2-Flash, in bfloat16",
        _mimo,
        MIMO,
        "values narrower than keys; windows with sinks and more key-value heads on five layers of "
        "six; experts by corrected sigmoids; drafts left out",
        beside=("model.mtp.",),
    ),
}
