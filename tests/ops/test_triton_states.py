"""The Triton kernels of convolutions, scans and the gated norm against their references."""

import pytest
import torch
from state_plans import make_plan

from stoker.ops import causal_conv, gated_norm, selective_scan
from stoker.ops.gated_norm import GateNorm
from stoker.ops.selective_scan import ScanWeights, SelectiveInputs
from stoker.ops.triton.available import interpreted

pytest.importorskip("triton", reason="Triton is not installed")
fused = pytest.importorskip("stoker.ops.triton.state_space")

DEVICE = "cpu" if interpreted() else "cuda"
LENGTHS, SLOTS, FRESH = (3, 1, 0, 17, 2), (3, 0, 4, 1, 5), (True, False, True, False, False)
TOKENS = sum(LENGTHS)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6}
DTYPES = [torch.float32, torch.bfloat16]


def plan_here():
    plan = make_plan(LENGTHS, SLOTS, FRESH)
    return plan._replace(**{name: getattr(plan, name).to(DEVICE) for name in plan._fields[:3]})


def assert_alike(run, states, dtype):
    """`run` of each way and its states; a fresh sequence's place holds what must not be read."""
    found = []
    for way in range(2):
        own = states.clone()
        for slot, fresh in zip(SLOTS, FRESH, strict=True):
            if fresh:
                own[slot] = torch.nan
        plan = plan_here()
        found.append((run(way, own, plan), own))
    (expected, after), (y, own) = found
    size = expected.float().abs().max().item()
    limit = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] * size, "equal_nan": True}
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected.float(), **limit)
    torch.testing.assert_close(own, after, **limit)
    assert own[4].isnan().all(), "a sequence without tokens was touched"


@pytest.mark.parametrize(
    ("channels", "taps", "gated", "dtype"),
    [
        (70, 4, False, torch.float32),
        (130, 3, True, torch.float32),
        (70, 3, True, torch.bfloat16),
        (16, 7, False, torch.bfloat16),
    ],
)
def test_causal_conv(channels, taps, gated, dtype):
    torch.manual_seed(0)
    wide = torch.randn(TOKENS, 3 * channels + 2).to(dtype).to(DEVICE)
    before, after, x = wide[:, : 3 * channels].split(channels, 1)
    weight, bias = torch.randn(taps, channels), torch.randn(channels)
    weight, bias = weight.to(dtype).to(DEVICE), None if gated else bias.to(dtype).to(DEVICE)
    states = torch.randn(6, taps - 1, channels).to(dtype).to(DEVICE)
    gates = {"before": before, "after": after} if gated else {}

    def run(way, own, plan):
        conv = (causal_conv, fused)[way].causal_conv
        return conv(x, weight, bias, own, plan, silu=not gated, **gates)

    assert_alike(run, states, dtype)


@pytest.mark.parametrize(
    ("heads", "dim", "groups", "size", "limit", "dtype"),
    [
        (4, 16, 2, 8, (0.05, 1.5), torch.bfloat16),
        (3, 20, 1, 5, (0.05, 1.5), torch.float32),
        (2, 80, 2, 128, (0.0, float("inf")), torch.float32),
    ],
)
def test_ssd_scan(heads, dim, groups, size, limit, dtype):
    torch.manual_seed(0)
    xbc = torch.randn(TOKENS, heads * dim + 2 * groups * size).to(dtype).to(DEVICE)
    steps = torch.randn(TOKENS, heads + 3).to(dtype).to(DEVICE)[:, 3:] * 3
    rates = -torch.rand(heads) * 4
    weights = ScanWeights(*(one.to(DEVICE) for one in (torch.randn(heads), rates, rates + 2)))
    states = torch.randn(6, heads, size, dim).to(DEVICE)

    def run(way, own, plan):
        scan = (selective_scan, fused)[way].ssd_scan
        return scan(xbc, steps, weights, groups, limit, own, plan)

    assert_alike(run, states, dtype)


@pytest.mark.parametrize(
    ("channels", "groups", "size", "dtype"),
    [(64, 1, 16, torch.bfloat16), (70, 2, 5, torch.float32), (600, 1, 8, torch.float32)],
)
def test_selective_scan(channels, groups, size, dtype):
    torch.manual_seed(0)
    x, steps = torch.randn(2, TOKENS, channels).to(dtype).to(DEVICE).unbind()
    z = torch.randn(TOKENS, 2 * channels).to(dtype).to(DEVICE)[:, channels:]
    picked = torch.randn(TOKENS, groups, 3 + 2 * size).to(dtype).to(DEVICE)
    _, b, c = picked.split((3, size, size), 2)
    rates = -torch.rand(size, channels) * 4
    weights = (torch.randn(channels), rates, torch.randn(channels))
    weights = ScanWeights(*(one.to(DEVICE) for one in weights))
    states = torch.randn(6, size, channels).to(DEVICE)

    def run(way, own, plan):
        scan = (selective_scan, fused)[way].selective_scan
        return scan(SelectiveInputs(x, steps, b, c, z), weights, own, plan)

    assert_alike(run, states, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("weighted", "first"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize(("size", "groups"), [(96, 4), (35, 5)])
def test_gated_norm(size, groups, weighted, first, dtype):
    torch.manual_seed(0)
    x, z = torch.randn(2, 9, size).to(dtype).to(DEVICE).unbind()
    z = torch.cat((x, z), 1)[:, size:]
    weight = torch.randn(size).to(dtype).to(DEVICE) if weighted else None
    norm = GateNorm(groups, 1e-5, first)
    expected, found = (way.gated_norm(x, z, weight, norm) for way in (gated_norm, fused))
    limit = TOLERANCE[dtype]
    torch.testing.assert_close(found, expected, rtol=limit, atol=limit)
