"""Grouped products of experts in Triton against the loop that defines them."""

import pytest
import torch
from test_experts import KINDS, inputs, weights_of

from stoker.ops.experts import run_experts
from stoker.ops.routing import Routes
from stoker.ops.triton.available import interpreted

pytest.importorskip("triton", reason="Triton is not installed")
kernels = pytest.importorskip("stoker.ops.triton.experts")

DEVICE = "cpu" if interpreted() else "cuda"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "rows"), [((4, 48, 20, 2), 41), ((7, 33, 65, 3), 2)], ids=str)
def test_as_the_definition(shape, rows, kind, dtype):
    weights = weights_of(shape, kind, dtype, DEVICE)
    x, routes, add = inputs(shape, rows, dtype, DEVICE)
    fast = kernels.TritonExperts(weights)
    error = 1e-5 if dtype == torch.float32 else 0.04
    exact = weights_of(shape, kind, torch.float32, DEVICE)
    expected = run_experts(x.float(), routes, exact)
    for found, wanted in (
        (fast(x, routes), expected),
        (fast(x, routes, add), expected + add.float()),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, rtol=error, atol=error)


@pytest.mark.parametrize("pairs", [1, 5, 64, 200])
@pytest.mark.parametrize("rows", [4, 16])
def test_tiles_hold_each_pair_of_an_expert_once(pairs, rows):
    """All pairs of one expert, too: the skew that needs fewest tiles."""
    experts = 6
    for high in (experts, 1, experts + 2):  # the last two of eight have no weights
        chosen = torch.randint(0, high, (pairs,))
        tiles = kernels.tile_map(chosen, experts, rows)
        seen = []
        for expert, first, last in zip(tiles.expert, tiles.first, tiles.last, strict=True):
            members = tiles.order[first : min(first + rows, last)]
            assert (chosen[members] == expert).all()
            assert members.tolist() == sorted(members.tolist())
            seen += members.tolist()
        assert sorted(seen) == (chosen < experts).nonzero().flatten().tolist()
        assert len(tiles.expert) == min(pairs, pairs // rows + experts)


def test_experts_without_weights_and_no_rows():
    weights = weights_of((4, 48, 20, 2), "gated", device=DEVICE)
    x, routes, _ = inputs((4, 48, 20, 2), 5, device=DEVICE)
    fast = kernels.TritonExperts(weights)
    nowhere = Routes(torch.full_like(routes.experts, 4), routes.weights)
    torch.testing.assert_close(fast(x, nowhere), x * routes.weights.sum(1, keepdim=True))
    assert fast(x[:0], Routes(*(one[:0] for one in routes))).shape == (0, 48)


def test_all_tiles_give_the_same(monkeypatch):
    """Whatever number of rows chooses the tile; sums over inputs are cut differently."""
    shape, dtype = (3, 140, 72, 2), torch.bfloat16
    weights = weights_of(shape, "clamped", dtype, DEVICE)
    x, routes, add = inputs(shape, 24, dtype, DEVICE)
    found = []
    for tile in (kernels._NARROW, kernels._MIDDLE, kernels._WIDE):
        monkeypatch.setattr(kernels, "tile_for", lambda *_, tile=tile: tile)
        found.append(kernels.TritonExperts(weights)(x, routes, add).float())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("average", [1, 24, 25, 96, 97, 4000])
def test_wider_tiles_for_more_rows(average):
    tile = kernels.tile_for(torch.bfloat16, 16 * average, 16)
    assert tile.rows == (16 if average <= 24 else 64 if average <= 96 else 128)
