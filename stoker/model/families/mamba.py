"""Mamba, Falcon-Mamba and Mamba 2: layers of a state space alone, and what hybrids take of them."""

from __future__ import annotations

import math
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.fields import Fields
from stoker.model.families.parts import Family, decoder
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.part import NormSpec
from stoker.model.spec.state_space import Mamba2Spec, MambaSpec
from stoker.model.weights import Names, changed, names
from stoker.ops.gated_norm import GateNorm

UNLIMITED = 2**20  # positions, where nothing in a model depends on them


def step_limit(f: Fields) -> tuple[float, float]:
    """The least and the largest step, by time_step_limit; infinity in any of its spellings."""
    given = f.items("time_step_limit")
    if given is None:
        return 0.0, math.inf
    found: list[Any] = [one.get("__float__") if isinstance(one, dict) else one for one in given]
    try:
        low, high = (float(one) for one in found)
    except (TypeError, ValueError):
        low, high = 0.0, -1.0
    if not 0 <= low <= high:
        raise ModelError(
            f"{f.named('time_step_limit')} must hold the least and the largest step, "
            f"not {short(given)}"
        )
    return low, high


def rank_of(f: Fields, name: str) -> int:
    """A rank of steps, which may be "auto": a 16th of the width."""
    if f.values.get(name) in (None, "auto"):
        f.read.add(name)
        return math.ceil(f.size("hidden_size") / 16)
    return f.size(name)


def widened(f: Fields, name: str) -> int:
    """The width times a factor, by which configs give the channels of a state space."""
    return int(f.number(name, 2, above=0) * f.size("hidden_size"))


def mamba2(f: Fields, channels: int, heads: int, head_dim: int, **changes: Any) -> Mamba2Spec:
    """Mamba 2 of the given sizes; `changes` are fields of `Mamba2Spec`.

    Raises:
        ModelError: the heads don't make up the channels.
    """
    if heads * head_dim != channels:
        raise ModelError(
            f"{heads} heads of {head_dim} of a state space in config.json don't make up its "
            f"{channels} channels"
        )
    return Mamba2Spec(heads=heads, head_dim=head_dim, **changes)


def hybrid_mamba2(f: Fields, eps: float, channels: int, **changes: Any) -> Mamba2Spec:
    """Mamba 2 by the fields of Bamba, which many hybrids have; `changes` as above."""
    heads, groups = f.size("mamba_n_heads", 128), f.size("mamba_n_groups", 1)
    head_dim = channels // heads
    if f.values.get("mamba_d_head", "auto") != "auto":
        head_dim = f.size("mamba_d_head")
    bias = f.flag("mamba_proj_bias")
    fields: dict[str, Any] = {
        "groups": groups,
        "state": f.size("mamba_d_state", 256),
        "taps": f.size("mamba_d_conv", 4),
        "norm": GateNorm(groups, eps),
        "limit": step_limit(f),
        "bias": bias,
        "out_bias": bias,
        "conv_bias": f.flag("mamba_conv_bias", True),
    }
    return mamba2(f, channels, heads, head_dim, **{**fields, **changes})


def _mamba(f: Fields, **changes: Any) -> ModelSpec:
    f.insist("hidden_act", "silu", "silu")
    mixer = MambaSpec(
        channels=f.size("intermediate_size", widened(f, "expand")),
        state=f.size("state_size", 16),
        taps=f.size("conv_kernel", 4),
        rank=rank_of(f, "time_step_rank"),
        bias=f.flag("use_bias"),
        conv_bias=f.flag("use_conv_bias", True),
        **changes,
    )
    return _alone(f, mixer, tied=True)


def _falcon_mamba(f: Fields) -> ModelSpec:
    eps = f.number("mixer_rms_eps", 1e-6, above=0)
    return _mamba(f, norm=NormSpec("rms", eps, weight=False))


def _mamba2(f: Fields) -> ModelSpec:
    f.insist("hidden_act", "silu", "silu")
    groups, bias = f.size("n_groups", 8), f.flag("use_bias")
    mixer = mamba2(
        f,
        widened(f, "expand"),
        f.size("num_heads", 128),
        f.size("head_dim", 64),
        groups=groups,
        state=f.size("state_size", 128),
        taps=f.size("conv_kernel", 4),
        norm=GateNorm(groups, _norm(f).eps),
        limit=step_limit(f),
        bias=bias,
        out_bias=bias,
        conv_bias=f.flag("use_conv_bias", True),
    )
    return _alone(f, mixer, tied=False)


def _alone(f: Fields, mixer: MambaSpec | Mamba2Spec, tied: bool) -> ModelSpec:
    none = [None] * f.layers()
    return decoder(f, mixer, ffn=none, norm=_norm(f), tied=tied, context=UNLIMITED)


def _norm(f: Fields) -> NormSpec:
    return NormSpec("rms", f.number("layer_norm_epsilon", 1e-5, above=0))


def _mixer_names(table: dict[str, str]) -> dict[str, str]:
    return {f"layers.{{i}}.mixer.{ours}": theirs for ours, theirs in table.items()}


_PROJECTIONS = {
    "in_proj.weight": "in_proj.weight",
    "in_proj.bias": "in_proj.bias",
    "conv.weight": "conv1d.weight",
    "conv.bias": "conv1d.bias",
    "decays.a_log": "A_log",
    "decays.d": "D",
    "out_proj.weight": "out_proj.weight",
    "out_proj.bias": "out_proj.bias",
}
MAMBA = _mixer_names(
    {
        **_PROJECTIONS,
        "x_proj.weight": "x_proj.weight",
        "dt_proj.weight": "dt_proj.weight",
        "decays.dt_bias": "dt_proj.bias",
        "dt_norm.weight": "dt_layernorm.weight",
        "b_norm.weight": "b_layernorm.weight",
        "c_norm.weight": "c_layernorm.weight",
    }
)
MAMBA2 = _mixer_names({**_PROJECTIONS, "decays.dt_bias": "dt_bias", "norm.weight": "norm.weight"})


def mixer_names(prefix: str, table: dict[str, str]) -> Names:
    """The names of `MAMBA` or `MAMBA2` below a prefix."""
    return changed(names(prefix, table), "conv.weight decays.a_log", transpose=True)


_AROUND = {
    "embedding": "backbone.embeddings.weight",
    "norm.weight": "backbone.norm_f.weight",
    "head.weight": "lm_head.weight",
    "layers.{i}.mixer_norm.weight": "backbone.layers.{i}.norm.weight",
}
_OLD = (("backbone.embedding.", "backbone.embeddings."),)
_ALONE: dict[str, Any] = {"base": "backbone.", "renamed": _OLD}
_BLOCK = "backbone.layers.{i}.mixer."

FAMILIES = {
    "MambaForCausalLM": Family(
        "Mamba 130M to 2.8B (the `-hf` checkpoints)",
        _mamba,
        {**names("", _AROUND), **mixer_names(_BLOCK, MAMBA)},
        "layers of Mamba 1 alone",
        **_ALONE,
    ),
    "FalconMambaForCausalLM": Family(
        "Falcon-Mamba 7B",
        _falcon_mamba,
        {**names("", _AROUND), **mixer_names(_BLOCK, MAMBA)},
        "as Mamba, with norms of steps, b and c",
        **_ALONE,
    ),
    "Mamba2ForCausalLM": Family(
        "Mamba-Codestral 7B, Mamba 2 converted to this form",
        _mamba2,
        {**names("", _AROUND), **mixer_names(_BLOCK, MAMBA2)},
        "layers of Mamba 2 alone",
        **_ALONE,
    ),
}
