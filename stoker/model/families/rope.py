"""Rotary embeddings from a config, in the older and the newer spelling of Hugging Face.

Older: rope_theta and rope_scaling, side by side. Newer: rope_parameters holds everything, either
flat or once for each type of layer.
"""

from __future__ import annotations

import math
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.fields import LARGEST, Fields
from stoker.model.rope import (
    DynamicScaling,
    Growth,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Rope,
    Scaling,
    YarnScaling,
)

TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional")
LAYER_TYPES = ("full_attention", "sliding_attention")


def rope(
    f: Fields, head_dim: int, *, theta: float = 10000.0, partial: float = 1.0, kind: str = ""
) -> Rope:
    """The rotary embedding of layers of type `kind`.

    Args:
        f: the config.
        head_dim: size of a head.
        theta, partial: base and rotated share of a head where the config names none.
        kind: a type of layer, if the config tells them apart.
    """
    given = given_rope(f)
    if kind and any(one in given for one in LAYER_TYPES):
        given = Fields(given, f.architecture).within(kind).values
    if "factor" in given and not given.keys() & {"rope_type", "type"}:
        raise ModelError(
            f"rope_scaling in config.json has a factor ({short(given['factor'])}) and no "
            f"rope_type; add one of {', '.join(TYPES[1:])}"
        )
    given = {**f.values, **given}
    if "rope_type" not in given and "type" in given:
        given["rope_type"] = given["type"]
    fields = Fields(given, f.architecture)
    if fields.values.get("rope_type") == "su":  # as early Phi-3 checkpoints say
        fields.values["rope_type"] = "longrope"
    share = fields.number("partial_rotary_factor", partial, above=0, most=1)
    base = float(fields.number("rope_theta", theta, above=1))
    if fields.values.get("rope_type") == "proportional":
        turned = int(share * head_dim // 2)
        return Rope(
            head_dim, base, ProportionalScaling(turned, fields.number("factor", 1.0, above=0))
        )
    dim = int(head_dim * share)
    if dim % 2 or not 0 < dim <= head_dim:
        raise ModelError(
            f"config.json asks for a rotary embedding of {dim} of a head's {head_dim} numbers; "
            "it must be an even number, more than 0 and no more than those"
        )
    return Rope(dim, base, _scaling(fields, f, dim))


def given_rope(f: Fields) -> dict[str, Any]:
    """The fields of rope_scaling and rope_parameters."""
    return {**f.within("rope_scaling").values, **f.within("rope_parameters").values}


def growth(f: Fields) -> Growth | None:
    """The growth of queries, where the rope's fields ask for it."""
    given = Fields(given_rope(f), f.architecture)
    beta = given.number("llama_4_scaling_beta", 0.0)
    return Growth(beta, given.size("original_max_position_embeddings")) if beta else None


def context(f: Fields) -> int:
    """Most positions: those of the config, or as far as its rope type stretches them."""
    limit = f.size("max_position_embeddings")
    given = Fields(given_rope(f), f.architecture)
    kind = given.values.get("rope_type", given.values.get("type"))
    if kind == "dynamic":
        return _stretched(given, limit)
    if kind == "yarn":
        return max(limit, _stretched(given, given.size("original_max_position_embeddings", 1)))
    return limit


def _stretched(rope: Fields, positions: int) -> int:
    """So many positions times the factor."""
    return int(positions * rope.number("factor", 1.0, above=0, most=LARGEST / positions))


def _scaling(fields: Fields, config: Fields, dim: int) -> Scaling | None:
    kind = fields.choice("rope_type", TYPES, "rope type", "default")
    if kind == "default":
        return None
    limit = config.size("max_position_embeddings")
    if kind == "linear":
        return LinearScaling(fields.number("factor", above=0))
    if kind == "dynamic":
        if dim == 2:
            raise ModelError(
                "the rope type dynamic in config.json needs heads that rotate more than 2 numbers"
            )
        return DynamicScaling(fields.number("factor", above=0), limit)
    # Phi-3 has the original context beside rope_scaling, where it comes first.
    original = fields.size("original_max_position_embeddings", limit)
    original = config.size("original_max_position_embeddings", original)
    if kind == "llama3":
        low = fields.number("low_freq_factor", above=0)
        high = fields.number("high_freq_factor", above=0)
        if high < low:
            raise ModelError(
                f"high_freq_factor {high:g} in config.json must be at least low_freq_factor {low:g}"
            )
        return Llama3Scaling(fields.number("factor", above=0), low, high, original)
    factor = fields.number("factor", limit / original, above=0)
    if kind == "yarn":
        return YarnScaling(
            factor,
            original,
            fields.number("attention_factor", _yarn_attention(fields, factor)),
            fields.number("beta_fast", 32.0, above=0),
            fields.number("beta_slow", 1.0, above=0),
            fields.flag("truncate", True),
        )
    grown = 1.0
    if factor > 1 and original > 1:
        grown = math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRopeScaling(
        fields.factors("short_factor", dim // 2),
        fields.factors("long_factor", dim // 2),
        original,
        fields.number("attention_factor", grown),
    )


def _yarn_attention(fields: Fields, factor: float) -> float:
    """YaRN's attention temperature; with DeepSeek's two weights, if both are given."""
    above, below = fields.number("mscale", 0.0), fields.number("mscale_all_dim", 0.0)
    if above and below:
        return yarn_growth(above, factor) / yarn_growth(below, factor)
    return yarn_growth(1.0, factor)


def yarn_growth(weight: float, factor: float) -> float:
    """The growth of queries or keys, by DeepSeek's weight of it, in a context stretched so far."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
