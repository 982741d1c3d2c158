"""The causal convolution: against torch's, in any cut of the sequences, and the compiled one."""

import pytest
import torch
import torch.nn.functional as F
from state_plans import CUTS, LENGTHS, make_plan, run_in_steps

from stoker.ops.causal_conv import NativeCausalConv, causal_conv
from stoker.ops.native.build import load_kernels

LIBRARY = load_kernels("state_space")
WAYS = [causal_conv, *([NativeCausalConv(LIBRARY)] if LIBRARY else [])]
NAMES = ["reference", "native"][: len(WAYS)]


def inputs(channels, taps):
    torch.manual_seed(channels + taps)
    wide = torch.randn(sum(LENGTHS), 3 * channels + 5)
    before, after, x = wide[:, : 3 * channels].split(channels, 1)
    return x, before, after, torch.randn(taps, channels), torch.randn(channels)


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("channels", "taps"), [(64, 4), (5, 3), (300, 2), (530, 7), (33, 16)])
def test_every_cut_gives_torchs_convolution(way, channels, taps, gated):
    x, before, after, weight, bias = inputs(channels, taps)
    bias = None if gated else bias
    expected = []
    for rows in torch.arange(len(x)).split(LENGTHS):
        u = (before * x if gated else x)[rows].T
        y = F.conv1d(F.pad(u, (taps - 1, 0)), weight.T[:, None], bias, groups=channels).T
        expected.append(after[rows] * y if gated else F.silu(y))
    found = {}
    for name, cuts in CUTS.items():
        states = torch.full((10, taps - 1, channels), torch.nan)  # stale, of other sequences

        def run(parts, plan, states=states):
            wide = torch.cat(parts, 1)  # as they lie in a projection
            one, two, three = wide.split(channels, 1)
            gates = {"before": two, "after": three} if gated else {}
            return way(one, weight, bias, states, plan, silu=not gated, **gates)

        found[name] = run_in_steps(run, (x, before, after), LENGTHS, cuts)
        assert states[::2].isnan().all(), "the state of another sequence was touched"
    torch.testing.assert_close(found["whole"], torch.cat(expected), rtol=1e-5, atol=1e-5)
    for one in found.values():  # silu of a row's last numbers takes another path in PyTorch
        exact = 0 if way is not causal_conv else 1e-6
        torch.testing.assert_close(one, found["whole"], rtol=exact, atol=exact)


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_a_sequence_without_tokens_keeps_its_state(way):
    x, *_, weight, bias = inputs(8, 4)
    states = torch.randn(3, 3, 8)
    before = states.clone()
    y = way(x[:2].contiguous(), weight, bias, states, make_plan([0, 2], [2, 0], [True, False]))
    assert y.shape == (2, 8)
    assert torch.equal(states[1:], before[1:])
    assert torch.equal(states[0], torch.cat((before[0, 2:], x[:2])))


def test_bfloat16_keeps_its_dtype():
    x, *_, weight, bias = inputs(8, 4)
    states = torch.zeros(1, 3, 8, dtype=torch.bfloat16)
    plan = make_plan([len(x)], [0], [True])
    y = causal_conv(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), states, plan, silu=True)
    assert y.dtype == torch.bfloat16
    exact = causal_conv(x.contiguous(), weight, bias, states.float(), plan, silu=True)
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
