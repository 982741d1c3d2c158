"""The scans of Mamba 1 and 2 and the gated norm: against plain definitions, in any cut."""

import functools

import pytest
import torch
import torch.nn.functional as F
from state_plans import CUTS, LENGTHS, make_plan, run_in_steps

from stoker.ops.gated_norm import GateNorm, NativeGatedNorm, gated_norm
from stoker.ops.native.build import load_kernels
from stoker.ops.selective_scan import (
    NativeSelectiveScan,
    NativeSsdScan,
    ScanWeights,
    SelectiveInputs,
    selective_scan,
    ssd_scan,
)

LIBRARY = load_kernels("state_space")
native = pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
NAMES = ["reference", *(["native"] if LIBRARY else [])]
SSD = [ssd_scan, *([NativeSsdScan(LIBRARY)] if LIBRARY else [])]
SELECTIVE = [selective_scan, *([NativeSelectiveScan(LIBRARY)] if LIBRARY else [])]
TOKENS = sum(LENGTHS)
LIMIT = (0.05, 1.5)


def ssd_inputs(heads, dim, groups, size):
    torch.manual_seed(heads + size)
    xbc = torch.randn(TOKENS, heads * dim + 2 * groups * size)
    steps = torch.randn(TOKENS, heads) * 3
    weights = ScanWeights(torch.randn(heads), -torch.rand(heads) * 4, torch.randn(heads))
    return xbc, steps, weights


def ssd_plainly(xbc, steps, weights, groups, shape):
    """One sequence, in float64."""
    heads, size, dim = shape
    xbc, steps, *weights = (one.double() for one in (xbc, steps, *weights))
    x, b, c = xbc.split((heads * dim, groups * size, groups * size), 1)
    state, rows = torch.zeros(heads, size, dim).double(), []
    for t in range(len(x)):
        own = x[t].view(heads, dim)
        dt = F.softplus(steps[t] + weights[0]).clamp(*LIMIT)
        b_t, c_t = (
            one[t].view(groups, size).repeat_interleave(heads // groups, 0) for one in (b, c)
        )
        state = torch.exp(dt * weights[1])[:, None, None] * state
        state += torch.einsum("h,hn,hp->hnp", dt, b_t, own)
        rows.append(torch.einsum("hn,hnp->hp", c_t, state) + weights[2][:, None] * own)
    return torch.stack(rows).flatten(1)


@pytest.mark.parametrize("way", SSD, ids=NAMES)
@pytest.mark.parametrize(
    ("heads", "dim", "groups", "size"),
    [(4, 64, 2, 128), (3, 80, 1, 16), (6, 5, 3, 7), (2, 32, 1, 10), (1, 130, 1, 6)],
)
def test_every_cut_gives_the_recurrence_of_mamba_2(way, heads, dim, groups, size):
    xbc, steps, weights = ssd_inputs(heads, dim, groups, size)
    found = {}
    for name, cuts in CUTS.items():
        states = torch.full((10, heads, size, dim), torch.nan)
        rest = (weights, groups, LIMIT, states)
        run = functools.partial(lambda rest, parts, plan: way(*parts, *rest, plan), rest)
        found[name] = run_in_steps(run, (xbc, steps), LENGTHS, cuts)
        assert states[::2].isnan().all(), "the state of another sequence was touched"
    expected = torch.cat(
        [
            ssd_plainly(xbc[rows], steps[rows], weights, groups, (heads, size, dim))
            for rows in torch.arange(TOKENS).split(LENGTHS)
        ]
    )
    torch.testing.assert_close(found["whole"], expected.float(), rtol=2e-5, atol=1e-4)
    if way is not ssd_scan:  # sums over a tensor's rows depend on how many there are
        assert all(torch.equal(one, found["whole"]) for one in found.values())
    for one in found.values():
        torch.testing.assert_close(one, found["whole"], rtol=2e-5, atol=1e-4)


@native
def test_steps_may_lie_apart():
    xbc, steps, weights = ssd_inputs(4, 8, 1, 8)
    wide = torch.cat((torch.randn(TOKENS, 3), steps), 1)[:, 3:]
    plan, states = make_plan([TOKENS], [0], [True]), torch.zeros(1, 4, 8, 8)
    way = NativeSsdScan(LIBRARY)
    expected = way(xbc, steps, weights, 1, LIMIT, states.clone(), plan)
    assert torch.equal(way(xbc, wide, weights, 1, LIMIT, states, plan), expected)


@native
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_steps_of_any_size(scale):
    """Softplus of what is far from 0, and decays down to 0."""
    xbc, steps, weights = ssd_inputs(4, 16, 1, 8)
    plan, unlimited = make_plan([TOKENS], [0], [True]), (0.0, float("inf"))
    expected, found = torch.zeros(1, 4, 8, 16), torch.zeros(1, 4, 8, 16)
    y = ssd_scan(xbc, steps * scale, weights, 1, unlimited, expected, plan)
    z = NativeSsdScan(LIBRARY)(xbc, steps * scale, weights, 1, unlimited, found, plan)
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-4 * y.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * y.abs().max().item())


def selective_inputs(channels, groups, size):
    torch.manual_seed(channels + size)
    x, steps, z = torch.randn(3, TOKENS, channels).unbind()
    b, c = torch.randn(2, TOKENS, groups * size).unbind()
    a = -torch.rand(size, channels) * 4
    return x, steps, b, c, z, ScanWeights(torch.randn(channels), a, torch.randn(channels))


def selective_plainly(x, steps, b, c, z, weights, groups):
    x, steps, b, c, z, *weights = (one.double() for one in (x, steps, b, c, z, *weights))
    channels, (size, _) = x.shape[1], weights[1].shape
    state, rows = torch.zeros(size, channels).double(), []
    for t in range(len(x)):
        dt = F.softplus(steps[t] + weights[0])
        b_t, c_t = (
            one[t].view(groups, size).repeat_interleave(channels // groups, 0).T for one in (b, c)
        )
        state = torch.exp(dt * weights[1]) * state + dt * b_t * x[t]
        rows.append(((c_t * state).sum(0) + weights[2] * x[t]) * F.silu(z[t]))
    return torch.stack(rows)


@pytest.mark.parametrize("way", SELECTIVE, ids=NAMES)
@pytest.mark.parametrize(("channels", "groups", "size"), [(64, 1, 16), (200, 1, 8), (34, 2, 5)])
def test_every_cut_gives_the_recurrence_of_mamba_1(way, channels, groups, size):
    *tensors, weights = selective_inputs(channels, groups, size)
    found = {}
    for name, cuts in CUTS.items():
        states = torch.full((10, size, channels), torch.nan)

        def run(parts, plan, states=states):
            x, steps, b, c, z = parts
            bc = torch.cat((b, c), 1)  # as they lie in a projection
            b, c = (one.unflatten(1, (groups, size)) for one in bc.split(groups * size, 1))
            z = torch.cat((x, z), 1)[:, channels:]
            return way(SelectiveInputs(x, steps, b, c, z), weights, states, plan)

        found[name] = run_in_steps(run, tensors, LENGTHS, cuts)
        assert states[::2].isnan().all(), "the state of another sequence was touched"
    expected = torch.cat(
        [
            selective_plainly(*(one[rows] for one in tensors), weights, groups)
            for rows in torch.arange(TOKENS).split(LENGTHS)
        ]
    )
    torch.testing.assert_close(found["whole"], expected.float(), rtol=2e-5, atol=1e-4)
    if way is not selective_scan:
        assert all(torch.equal(one, found["whole"]) for one in found.values())
    for one in found.values():
        torch.testing.assert_close(one, found["whole"], rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("kind", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_without_tokens_keeps_its_state(kind, name):
    plan, at = make_plan([0, 3], [1, 0], [True, True]), NAMES.index(name)
    if kind:
        xbc, steps, weights = ssd_inputs(2, 4, 1, 3)
        states = torch.randn(2, 2, 3, 4)
        before = states.clone()
        SSD[at](xbc[:3], steps[:3], weights, 1, LIMIT, states, plan)
    else:
        x, steps, b, c, z, weights = selective_inputs(8, 1, 3)
        states = torch.randn(2, 3, 8)
        before = states.clone()
        inputs = SelectiveInputs(x[:3], steps[:3], b[:3, None], c[:3, None], z[:3])
        SELECTIVE[at](inputs, weights, states, plan)
    assert torch.equal(states[1], before[1])
    assert not torch.equal(states[0], before[0])


@native
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("size", "groups"), [(64, 1), (96, 4), (35, 5), (1, 1)])
def test_gated_norm(size, groups, weighted, first):
    torch.manual_seed(size)
    x, z = torch.randn(9, size) * 3, torch.randn(9, size + 3)[:, 3:] * 3
    weight, norm = torch.randn(size) if weighted else None, GateNorm(groups, 1e-5, first)
    found = NativeGatedNorm(LIBRARY)(x, z, weight, norm)
    torch.testing.assert_close(found, gated_norm(x, z, weight, norm), rtol=2e-5, atol=1e-5)
    assert torch.equal(NativeGatedNorm(LIBRARY)(x[4:5], z[4:5], weight, norm), found[4:5])
