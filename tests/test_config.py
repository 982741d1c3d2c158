"""How settings of the engine are checked and spelt out."""

import pytest

from stoker.config import EngineConfig
from stoker.errors import ConfigError


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
    config = EngineConfig(**options)
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
        EngineConfig(**options)
