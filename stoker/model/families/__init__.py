"""What Stoker knows of each model family: config to `ModelSpec`, and the names of its weights.

A family is a row of `FAMILIES`. Behaviour that families share is a field of the spec; a branch
on a family's name anywhere else is a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.errors import ModelError, suggest
from stoker.model.families import classic, decilm, gemma, llama, olmo, paired, wrapped
from stoker.model.families.fields import Fields
from stoker.model.families.parts import Family
from stoker.model.families.per_layer import per_layer_spec
from stoker.model.spec import ModelSpec

__all__ = ["FAMILIES", "Family", "spec_from_config"]

FAMILIES: dict[str, Family] = {
    **llama.FAMILIES,
    **decilm.FAMILIES,
    **gemma.FAMILIES,
    **olmo.FAMILIES,
    **paired.FAMILIES,
    **classic.FAMILIES,
    **wrapped.FAMILIES,
}


def spec_from_config(config: Mapping[str, Any]) -> tuple[ModelSpec, Family]:
    """The spec and family of a Hugging Face config.

    Raises:
        ModelError: no architecture, an unknown one, quantised weights, or a field that is
            missing, of a wrong type or not supported.
    """
    architectures = config.get("architectures")
    if not architectures:
        raise ModelError(
            'config.json names no architecture; add "architectures": ["..."], '
            f"one of: {', '.join(sorted(FAMILIES))}"
        )
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise ModelError(f"architectures in config.json must be a list of names: {architectures!r}")
    name = architectures[0]
    if name not in FAMILIES:
        raise ModelError(f"architecture {name!r} is not supported; {suggest(name, [*FAMILIES])}")
    _refuse_quantised(config)
    family = FAMILIES[name]
    if config.get("per_layer_config"):
        return per_layer_spec(family.spec, config, name), family
    return family.spec(Fields(config, name)), family


def _refuse_quantised(config: Mapping[str, Any]) -> None:
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return
    fields = found if isinstance(found, dict) else {}
    method = fields.get("quant_method", "an unnamed method")
    bits = fields.get("bits") or fields.get("w_bit")
    detail = f" ({bits} bits)" if bits else ""
    raise ModelError(
        f"the checkpoint is quantised with {method}{detail}, and quantised checkpoints are not "
        "supported; use a float32, bfloat16 or float16 one"
    )
