"""What Stoker knows of each model family: config to `ModelSpec`, and the names of its weights.

A family is a row of `FAMILIES`. Behaviour that families share is a field of the spec; a branch
on a family's name anywhere else is a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.errors import ModelError, short, suggest
from stoker.model.families import (
    alibi,
    bailing,
    balanced,
    classic,
    decilm,
    delta,
    gemma,
    gemma3n,
    gemma4,
    gpt,
    gpt_oss,
    griffin,
    hunyuan,
    hybrid,
    jetmoe,
    kimi,
    lara,
    latent,
    layer_norms,
    lfm2,
    llama,
    llama4,
    llama_like,
    longcat,
    mamba,
    mimo,
    minimax,
    mixtures,
    modernbert,
    nemotron_h,
    olmo,
    paired,
    recent,
    recent_mixtures,
    squared,
    wrapped,
    zamba,
)
from stoker.model.families.fields import Fields
from stoker.model.families.parts import Family
from stoker.model.families.per_layer import per_layer_spec
from stoker.model.families.refused import REFUSED
from stoker.model.spec.model import ModelSpec

__all__ = ["FAMILIES", "Family", "architecture", "spec_from_config"]

MOST_PARAMETERS = 10**14  # a hundred times the largest ever published; bytes still fit 64 bits

FAMILIES: dict[str, Family] = {
    **llama.FAMILIES,
    **decilm.FAMILIES,
    **gemma.FAMILIES,
    **olmo.FAMILIES,
    **paired.FAMILIES,
    **classic.FAMILIES,
    **recent.FAMILIES,
    **squared.FAMILIES,
    **gpt_oss.FAMILIES,
    **gpt.FAMILIES,
    **alibi.FAMILIES,
    **layer_norms.FAMILIES,
    **mixtures.FAMILIES,
    **balanced.FAMILIES,
    **llama_like.FAMILIES,
    **modernbert.FAMILIES,
    **mimo.FAMILIES,
    **jetmoe.FAMILIES,
    **hunyuan.FAMILIES,
    **recent_mixtures.FAMILIES,
    **delta.FAMILIES,
    **mamba.FAMILIES,
    **lfm2.FAMILIES,
    **hybrid.FAMILIES,
    **zamba.FAMILIES,
    **nemotron_h.FAMILIES,
    **latent.FAMILIES,
    **longcat.FAMILIES,
    **griffin.FAMILIES,
    **kimi.FAMILIES,
    **bailing.FAMILIES,
    **lara.FAMILIES,
    **minimax.FAMILIES,
    **wrapped.FAMILIES,
    **llama4.FAMILIES,
    **gemma3n.FAMILIES,
    **gemma4.FAMILIES,
}


def spec_from_config(config: Mapping[str, Any]) -> tuple[ModelSpec, Family]:
    """The spec and family of a Hugging Face config.

    Raises:
        ModelError: no architecture, an unknown one, quantised weights, or a field that is
            missing, of a wrong type or not supported.
    """
    name = architecture(config)
    if name in REFUSED:
        raise ModelError(f"config.json: architecture {name!r} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise ModelError(
            f"config.json: architecture {name!r} is not supported; {suggest(name, [*FAMILIES])}"
        )
    _refuse_quantised(config)
    family = FAMILIES[name]
    if config.get("per_layer_config"):
        spec = per_layer_spec(family.spec, config, name)
    else:
        spec = family.spec(Fields(config, name))
    if spec.parameters() > MOST_PARAMETERS:
        raise ModelError(
            f"config.json describes a model of {spec.parameters():.1e} parameters; one of its "
            f"sizes must be wrong: {_sizes(config)}"
        )
    return spec, family


def architecture(config: Mapping[str, Any]) -> str:
    """The first of `architectures`, or else the language model that model_type stands for.

    Raises:
        ModelError: the config has neither, or model_type stands for no model that is supported.
    """
    names = config.get("architectures")
    if names:
        if not isinstance(names, list) or not isinstance(names[0], str):
            raise ModelError(
                f"architectures in config.json must be a list of names: {short(names)}"
            )
        return names[0]
    kind = config.get("model_type")
    if kind is None:
        raise ModelError(
            'config.json names no architecture; add "architectures": ["..."], '
            f"one of: {', '.join(sorted(FAMILIES))}"
        )
    # a second to import, for the few configs that need it
    from transformers.models.auto import modeling_auto

    known: dict[str, str] = {
        **modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    known = {name: model for name, model in known.items() if model in FAMILIES}
    if not isinstance(kind, str) or kind not in known:
        raise ModelError(
            f"config.json names no architectures, and its model_type {short(kind)} stands for none "
            f"that is supported; {suggest(str(kind), [*known])}"
        )
    return known[kind]


def _sizes(config: Mapping[str, Any]) -> str:
    """The three largest numbers of a config, for a message."""
    numbers = {name: value for name, value in config.items() if type(value) is int}
    largest = sorted(numbers, key=lambda name: -numbers[name])[:3]
    return ", ".join(f"{name} {short(numbers[name])}" for name in largest)


def _refuse_quantised(config: Mapping[str, Any]) -> None:
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return
    fields = found if isinstance(found, dict) else {}
    method = short(fields.get("quant_method", "an unnamed method")).strip("'")
    bits = fields.get("bits") or fields.get("w_bit")
    detail = f" ({short(bits)} bits)" if bits else ""
    raise ModelError(
        f"by config.json the checkpoint is quantised with {method}{detail}, and quantised "
        "checkpoints are not supported; use a float32, bfloat16 or float16 one"
    )
