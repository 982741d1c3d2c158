"""The gated delta rule: against transformers, in any cut of the sequences, in C and in PyTorch."""

import functools

import pytest
import torch
from state_plans import CUTS, LENGTHS, make_plan, run_in_steps
from transformers.models.kimi_linear import modeling_kimi_linear as kimi
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

from stoker.ops.delta_rule import (
    DeltaInputs,
    DeltaRule,
    DeltaWeights,
    NativeGatedDelta,
    gated_delta,
    log_decay,
)
from stoker.ops.native.build import load_kernels

LIBRARY = load_kernels("delta_rule")
WAYS = [gated_delta, *([NativeGatedDelta(LIBRARY)] if LIBRARY else [])]
NAMES = ["reference", "native"][: len(WAYS)]
RULES = {
    "qwen": DeltaRule(2, 4, 32, 64),
    "olmo": DeltaRule(3, 3, 24, 48, beta_most=2.0, eps=1e-5),
    "kimi": DeltaRule(2, 2, 33, 40, by_channel=True, gate="sigmoid"),
    "bounded": DeltaRule(1, 3, 8, 5, by_channel=True, bound=-5.0, gate="sigmoid"),
}


TOKENS = sum(LENGTHS)


def make(rule, tokens=TOKENS, seed=0):
    torch.manual_seed(seed)
    decays = rule.heads * (rule.keys if rule.by_channel else 1)
    value_row = rule.heads * rule.values
    wide = torch.randn(tokens, decays + rule.heads + value_row)
    a, b, gate = wide.split((decays, rule.heads, value_row), 1)
    qkv = torch.randn(tokens, 2 * rule.key_heads * rule.keys + value_row)
    weights = DeltaWeights(torch.rand(rule.heads) * 3, torch.randn(decays), torch.rand(rule.values))
    return DeltaInputs(qkv, a, b, gate), weights


@functools.cache
def expected(name):
    """What transformers gives, in float64."""
    rule = RULES[name]
    inputs, weights = (type(one)(*(x.double() for x in one)) for one in make(rule))
    all_keys = rule.key_heads * rule.keys
    rows, parts = torch.arange(sum(LENGTHS)).split(LENGTHS), []
    decay = log_decay(inputs.a, weights, rule).double()
    run = kimi.recurrent_kimi_delta_attention if rule.by_channel else None
    for own in rows:
        q, k, v = inputs.qkv[own].split((all_keys, all_keys, rule.heads * rule.values), 1)
        q, k = (one.reshape(1, len(own), -1, rule.keys) for one in (q, k))
        v = v.reshape(1, len(own), rule.heads, rule.values)
        g = decay[own][None]
        if rule.by_channel:
            q, k = (x.repeat_interleave(rule.heads // rule.key_heads, 2) for x in (q, k))
        else:
            run, g = qwen.torch_recurrent_gated_delta_rule, g[..., 0]
        beta = inputs.b[own].sigmoid()[None] * rule.beta_most
        y, _ = run(
            q,
            k,
            v,
            g=g,
            beta=beta,
            initial_state=None,
            output_final_state=False,
            use_qk_l2norm_in_kernel=True,
        )
        parts.append(y[0])
    norm = (kimi.KimiLinearRMSNormGated if rule.gate == "sigmoid" else qwen.Qwen3NextRMSNormGated)(
        rule.values, eps=rule.eps
    )
    norm.weight.data = weights.norm.float()
    gate = inputs.gate.reshape(-1, rule.heads, rule.values)
    return norm(torch.cat(parts).float(), gate.float()).flatten(1).detach()


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
@pytest.mark.parametrize("name", RULES)
def test_every_cut_gives_what_transformers_does(way, name):
    rule = RULES[name]
    inputs, weights = make(rule)
    found = {}
    for cut, cuts in CUTS.items():
        states = torch.full((10, rule.heads, rule.keys, rule.values), torch.nan)  # stale

        def run(parts, plan, states=states):
            wide = torch.cat(parts[1:], 1)  # as they lie in a projection
            rest = wide.split([x.shape[1] for x in parts[1:]], 1)
            return way(DeltaInputs(parts[0], *rest), weights, rule, states, plan)

        found[cut] = run_in_steps(run, inputs, LENGTHS, cuts)
        assert states[::2].isnan().all(), "the state of another sequence was touched"
    torch.testing.assert_close(found["whole"], expected(name), rtol=2e-5, atol=2e-5)
    for one in found.values():
        torch.testing.assert_close(one, found["whole"], rtol=1e-6, atol=1e-6)
        assert way is gated_delta or torch.equal(one, found["whole"])


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_a_sequence_without_tokens_keeps_its_state(way):
    rule = RULES["qwen"]
    inputs, weights = make(rule, 2)
    states = torch.randn(3, rule.heads, rule.keys, rule.values)
    before = states.clone()
    y = way(inputs, weights, rule, states, make_plan([0, 2], [2, 0], [True, False]))
    assert y.shape == (2, rule.heads * rule.values)
    assert torch.equal(states[1:], before[1:])
    assert not torch.equal(states[0], before[0])


@pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
@pytest.mark.parametrize("keys", [1, 7, 16, 100, 256])
@pytest.mark.parametrize("values", [1, 31, 32, 100])
def test_compiled_equals_reference_at_any_size(keys, values):
    rule = DeltaRule(1, 2, keys, values)
    inputs, weights = make(rule, 40)
    plan = make_plan([1, 36, 3], [0, 1, 2], [False, True, False])
    states = torch.randn(3, 2, keys, values)
    other = states.clone()
    found = WAYS[1](inputs, weights, rule, states, plan)
    exact = gated_delta(inputs, weights, rule, other, plan)
    torch.testing.assert_close(found, exact, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(states, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_bfloat16_keeps_its_dtype(way):
    rule = RULES["olmo"]
    inputs, weights = make(rule)
    plan = make_plan([len(inputs.qkv)], [0], [True])
    states = torch.zeros(2, 1, rule.heads, rule.keys, rule.values)
    inputs = DeltaInputs(*(one.bfloat16() for one in inputs))
    y = way(inputs, weights, rule, states[0], plan)
    assert y.dtype == torch.bfloat16
    exact = way(DeltaInputs(*(one.float() for one in inputs)), weights, rule, states[1], plan)
    torch.testing.assert_close(y.float(), exact, rtol=0.005, atol=1e-6)
