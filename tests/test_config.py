"""How settings of the engine are checked and spelt out."""

import dataclasses
import json

import pytest

from stoker import LLM
from stoker.config import SECTIONS, EngineOptions, EnginePlan
from stoker.errors import ConfigError
from stoker.model.work import kv_bytes_per_token


@pytest.mark.parametrize(
    ("options", "resolved"),
    [
        ({}, ("auto", "auto")),
        ({"dtype": "bfloat16"}, ("bfloat16", "auto")),
        ({"dtype": "int8"}, ("float32", "int8")),
        ({"quantization": "int8"}, ("float32", "int8")),
        ({"dtype": "float32", "quantization": "int8"}, ("float32", "int8")),
        ({"dtype": "int8", "quantization": "int8"}, ("float32", "int8")),
        ({"dtype": "fp8"}, ("bfloat16", "fp8")),
    ],
)
def test_dtype_may_be_short_for_a_quantization(options, resolved):
    config = EngineOptions(**options)
    assert (config.dtype, config.quantization) == resolved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8", "quantization": "fp8"}, "dtype='int8' is short for .* contradicts"),
        ({"dtype": "bfloat16", "quantization": "int8"}, "computes in float32, not in dtype='bf"),
        ({"dtype": "int4"}, "dtype='int4' is not known.*int8"),
        ({"quantization": "int4"}, "quantization='int4' is not known; did you mean 'int8'"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EngineOptions(**options)


def test_sections_hold_every_option_and_every_field_of_the_plan():
    told = [name for names in SECTIONS.values() for name in names]
    options = [field.name for field in dataclasses.fields(EngineOptions)]
    plan = [field.name for field in dataclasses.fields(EnginePlan)]
    assert sorted(told) == sorted(options)
    assert {*options} - {*plan} == {"gpu_memory"}, "it sizes the cache, and that is its trace"


def test_the_plan_says_what_open_options_came_to(text_model):
    options = {"threads": 1, "cache_memory": 1 << 20, "max_running": 3}
    with LLM(text_model, **options) as llm:
        told = llm.plan.described()
        printed, per_token = str(llm.plan), kv_bytes_per_token(llm.spec, 4)
    assert not [name for name, value in told.items() if value is None or value == "auto"]
    assert (told["dtype"], told["quantization"], told["kv_dtype"]) == ("float32", "none", "float32")
    assert (told["device"], told["threads"], told["overlap"]) == ("cpu", 1, False)
    assert (told["max_batch_tokens"], told["max_running"], told["max_context"]) == (512, 3, 512)
    assert (1 << 20) * 0.9 < told["cache_memory"] <= 1 << 20
    assert told["cache_memory"] == told["num_blocks"] * 16 * per_token, "there is one group"
    for section, names in SECTIONS.items():
        assert section in printed.splitlines()
        for name in names:
            assert name == "gpu_memory" or f"  {name:<18}{told[name]}" in printed
    json.dumps(told)
