"""The recurrence of Griffin: against transformers', in any cut, in C and in PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from state_plans import CUTS, LENGTHS, make_plan, run_in_steps
from transformers import RecurrentGemmaConfig
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

from stoker.ops.native.build import load_kernels
from stoker.ops.rg_lru import NativeRgLru, rg_lru

LIBRARY = load_kernels("state_space")
WAYS = [rg_lru, *([NativeRgLru(LIBRARY)] if LIBRARY else [])]
NAMES = ["reference", "native"][: len(WAYS)]


@torch.no_grad()
def transformers_gives(x, width, heads):
    """The gates (T, 2 W), the rate (W,) and the result of random weights, sequence by sequence."""
    config = RecurrentGemmaConfig(hidden_size=width, lru_width=width, num_attention_heads=heads)
    unit = RecurrentGemmaRglru(config)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    found = []
    for own in torch.arange(len(x)).split(LENGTHS):
        unit.recurrent_states = None
        found.append(unit(x[own][None], torch.arange(len(own))[None])[0])
    blocks = x.view(len(x), heads, 1, -1)
    gates = [
        (blocks @ weight + bias[:, None]).flatten(1)
        for weight, bias in (
            (unit.input_gate_weight, unit.input_gate_bias),
            (unit.recurrent_gate_weight, unit.recurrent_gate_bias),
        )
    ]
    return torch.cat(gates, 1), -8.0 * F.softplus(unit.recurrent_param), torch.cat(found)


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
@pytest.mark.parametrize(("width", "heads"), [(64, 2), (18, 3), (530, 1)])
def test_every_cut_gives_what_transformers_does(way, width, heads):
    torch.manual_seed(width)
    x = torch.randn(sum(LENGTHS), width)
    gates, rate, expected = transformers_gives(x, width, heads)
    found = {}
    for cut, cuts in CUTS.items():
        states = torch.full((10, width), torch.nan)

        def run(parts, plan, states=states):
            return way(parts[0].contiguous(), parts[1].contiguous(), rate, states, plan)

        found[cut] = run_in_steps(run, (x, gates), LENGTHS, cuts)
        assert states[::2].isnan().all(), "the state of another sequence was touched"
    torch.testing.assert_close(found["whole"], expected, rtol=1e-4, atol=1e-5)
    for one in found.values():
        torch.testing.assert_close(one, found["whole"], rtol=1e-5, atol=1e-6)
        assert way is rg_lru or torch.equal(one, found["whole"])


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_a_sequence_without_tokens_keeps_its_state(way):
    x, gates, states = torch.randn(2, 8), torch.randn(2, 16), torch.randn(3, 8)
    before = states.clone()
    way(x, gates, -torch.rand(8), states, make_plan([0, 2], [2, 0], [True, False]))
    assert torch.equal(states[1:], before[1:])
    assert not torch.equal(states[0], before[0])
