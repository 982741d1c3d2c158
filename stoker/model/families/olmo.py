"""OLMo 2 and 3: norms after mixer and network only, and over whole query and key projections."""

from __future__ import annotations

from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, attention, decoder, layer_types
from stoker.model.spec.model import ModelSpec
from stoker.model.weights import names

POST = {"pre_norms": False, "post_norms": True}


def _olmo2(f: Fields) -> ModelSpec:
    return decoder(f, attention(f, qk_norm="projection"), layer=POST)


def _olmo3(f: Fields) -> ModelSpec:
    slides = layer_types(f, lambda index: (index + 1) % 4 != 0)
    full = attention(f, theta=500000.0, kind="full_attention", qk_norm="projection")
    local = Fields(f.values, f.architecture)
    if not any("attention" in name for name in f.within("rope_parameters").values):
        local.values.pop("rope_scaling", None)  # layers with a window are never stretched
    window = f.size("sliding_window") if any(slides) else None
    sliding = attention(
        local, theta=500000.0, kind="sliding_attention", qk_norm="projection", window=window
    )
    return decoder(f, [sliding if slide else full for slide in slides], layer=POST)


OLMO = {
    **LLAMA,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.post_norm.weight": "post_attention_layernorm.weight",
            "layers.{i}.ffn.post_norm.weight": "post_feedforward_layernorm.weight",
        },
    ),
}

FAMILIES = {
    "Olmo2ForCausalLM": Family(
        "OLMo 2", _olmo2, OLMO, "norms after each part only, norms over whole query and key"
    ),
    "Olmo3ForCausalLM": Family(
        "OLMo 3", _olmo3, OLMO, "as OLMo 2; windows on three layers of four, yarn on the others"
    ),
}
