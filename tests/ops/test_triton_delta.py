"""The Triton kernels of the delta rule and of Griffin's recurrence against their references."""

import pytest
import torch
from test_delta_rule import RULES, make
from test_triton_states import DEVICE, DTYPES, TOKENS, assert_alike

from stoker.ops import delta_rule, rg_lru

fused = pytest.importorskip("stoker.ops.triton.delta_rule")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_gated_delta(name, dtype):
    rule = RULES[name]
    inputs, weights = make(rule, TOKENS)
    weights = type(weights)(*(one.to(DEVICE) for one in weights))
    wide = torch.cat(inputs[1:], 1).to(dtype).to(DEVICE)
    rest = wide.split([one.shape[1] for one in inputs[1:]], 1)  # as they lie in a projection
    inputs = delta_rule.DeltaInputs(inputs.qkv.to(dtype).to(DEVICE), *rest)
    states = torch.randn(6, rule.heads, rule.keys, rule.values, device=DEVICE)

    def run(way, own, plan):
        step = (delta_rule if way == 0 else fused).gated_delta
        return step(inputs, weights, rule, own, plan)

    assert_alike(run, states, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [7, 128, 150])
def test_rg_lru(channels, dtype):
    torch.manual_seed(0)
    x, gates = torch.randn(TOKENS, channels), torch.randn(TOKENS, 2 * channels)
    x, gates = (one.to(dtype).to(DEVICE) for one in (x, gates))
    rate, states = -torch.rand(channels, device=DEVICE) * 8, torch.randn(6, channels, device=DEVICE)

    def run(way, own, plan):
        return (rg_lru if way == 0 else fused).rg_lru(x, gates, rate, own, plan)

    assert_alike(run, states, dtype)
