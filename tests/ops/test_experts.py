"""Layers of experts: every implementation against the loop that defines them."""

import dataclasses

import pytest
import torch

from stoker.ops.experts import ExpertWeights, run_experts
from stoker.ops.experts_grouped import GroupedExperts, grouped_serves
from stoker.ops.experts_int8 import Int8ReferenceExperts, NativeInt8Experts
from stoker.ops.experts_native import NativeExperts
from stoker.ops.native.build import load_kernels
from stoker.ops.routing import Routes, Routing, route

native = pytest.mark.skipif(load_kernels("experts") is None, reason="no C compiler")
# experts, hidden, size, active
SHAPES = [(4, 48, 20, 2), (7, 33, 65, 3), (16, 128, 96, 1), (2, 7, 1, 2)]
KINDS = {
    "gated": {},
    "biased": {"bias": True, "activation": "gelu_tanh"},
    "clamped": {"bias": True, "activation": "quick_gelu", "limit": 0.6, "shift": 1.0},
    "plain": {"gated": False, "bias": True, "activation": "relu"},
    "plain clamped": {"gated": False, "limit": 0.4},
    "weighs input": {"weighs_input": True, "bias": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def weights_of(shape, kind, dtype=torch.float32, device="cpu"):
    """Random experts, whose weights are bf16 numbers."""
    torch.manual_seed(0)
    experts, hidden, size, _ = shape
    changes = {"gated": True, "activation": "silu", "bias": False, **KINDS[kind]}
    bias, outputs = changes.pop("bias"), (1 + changes["gated"]) * size
    tensors = [
        torch.randn(experts, outputs, hidden).bfloat16() / 8,
        torch.randn(experts, hidden, size).bfloat16() / 8,
        torch.randn(experts, outputs) if bias else None,
        torch.randn(experts, hidden) if bias else None,
    ]
    moved = (one if one is None else one.to(device, dtype) for one in tensors)
    return ExpertWeights(*moved, **changes)


def inputs(shape, rows, dtype=torch.float32, device="cpu", seed=1):
    """Rows, where they go, and what is added."""
    generator = torch.Generator().manual_seed(seed)
    experts, hidden, _, active = shape
    x, add = (torch.randn(rows, hidden, generator=generator).to(device, dtype) for _ in range(2))
    logits = torch.randn(rows, experts, generator=generator) * 2
    return x, route(logits.to(device), Routing(experts, active)), add


def cut(routes, start, stop):
    return Routes(*(one[start:stop] for one in routes))


@native
@each_shape
@each_kind
def test_the_kernel_computes_the_definition(kind, shape):
    weights = weights_of(shape, kind)
    fast = NativeExperts(weights)
    for rows in (0, 1, 2, 15, 61):
        x, routes, add = inputs(shape, rows)
        expected = run_experts(x, routes, weights)
        torch.testing.assert_close(fast(x, routes), expected, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(fast(x, routes, add), expected + add, rtol=1e-5, atol=2e-5)


@native
@each_shape
@each_kind
def test_a_row_has_the_same_bits_in_any_batch(kind, shape):
    weights = weights_of(shape, kind)
    x, routes, add = inputs(shape, 70)
    for fast in (NativeExperts(weights), NativeInt8Experts(weights)):
        whole = fast(x, routes, add)
        for start, stop in ((5, 6), (5, 7), (8, 23), (30, 70), (69, 70)):
            part = fast(x[start:stop], cut(routes, start, stop), add[start:stop])
            assert torch.equal(part, whole[start:stop])


@native
@each_kind
def test_weights_in_two_bytes_change_no_bit(kind):
    weights = weights_of((7, 33, 65, 3), kind)
    x, routes, add = inputs((7, 33, 65, 3), 40)
    expected = NativeExperts(weights)(x, routes, add)
    for names in (("up", "down"), ("up",), ("down",)):
        narrow = {name: getattr(weights, name).bfloat16() for name in names}
        found = NativeExperts(dataclasses.replace(weights, **narrow))
        assert {found.up.dtype, found.down.dtype} == {torch.bfloat16} | (
            {torch.float32} if len(names) == 1 else set()
        )
        assert torch.equal(found(x, routes, add), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(4, 48, 24, 2), (16, 128, 96, 1), (2, 8, 8, 2)], ids=str)
@each_kind
def test_grouped_products_compute_the_definition(kind, shape, dtype):
    weights = weights_of(shape, kind, dtype)
    exact = weights_of(shape, kind)
    assert grouped_serves(weights)
    assert not grouped_serves(exact)
    fewer = {name: getattr(exact, name) for name in ("up", "down", "up_bias", "down_bias")}
    fewer = {name: one if one is None else one[:-1] for name, one in fewer.items()}
    for rows in (0, 1, 2, 40):
        x, routes, add = inputs(shape, rows, dtype)
        for changes in ({}, fewer):
            cut = {name: one if one is None else one.to(dtype) for name, one in changes.items()}
            found = GroupedExperts(dataclasses.replace(weights, **cut))(x, routes, add)
            expected = run_experts(x.float(), routes, dataclasses.replace(exact, **changes))
            assert found.dtype == dtype
            expected += add.float()
            torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.08)


@native
@each_shape
@each_kind
def test_integers_give_their_definition(kind, shape):
    weights = weights_of(shape, kind)
    fast, slow = NativeInt8Experts(weights), Int8ReferenceExperts(weights)
    x, routes, add = inputs(shape, 50)
    x[3] = 0
    expected = slow(x, routes, add)
    # a value between up and down may fall on the other side of a half
    close = torch.isclose(fast(x, routes, add), expected, rtol=1e-4, atol=1e-4)
    assert close.float().mean() > 0.9
    torch.testing.assert_close(fast(x, routes, add), expected, rtol=0.05, atol=0.05)
    exact = run_experts(x, routes, weights)
    assert (slow(x, routes) - exact).norm() < 0.05 * exact.norm()


@native
@pytest.mark.parametrize("make", [NativeExperts, NativeInt8Experts, Int8ReferenceExperts])
def test_experts_without_weights_give_what_they_read(make):
    shape = (6, 24, 8, 3)
    weights = weights_of(shape, "weighs input")
    stored = {name: getattr(weights, name)[:4] for name in ("up", "down", "up_bias", "down_bias")}
    weights = dataclasses.replace(weights, **stored)
    x, routes, add = inputs(shape, 30)
    assert (routes.experts >= 4).any(dim=1).any()
    expected = run_experts(x, routes, weights) + add
    error = 1e-5 if make is NativeExperts else 0.06
    torch.testing.assert_close(make(weights)(x, routes, add), expected, rtol=error, atol=error)
    nowhere = Routes(torch.full_like(routes.experts, 5), routes.weights)
    only = make(weights)(x, nowhere)
    torch.testing.assert_close(only, x * routes.weights.sum(1, keepdim=True))


@native
@pytest.mark.parametrize("make", [NativeExperts, NativeInt8Experts])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_stay_so_and_alone(make, value):
    shape = (4, 48, 20, 2)
    fast = make(weights_of(shape, "gated"))
    x, routes, _ = inputs(shape, 40)
    clean = fast(x, routes)
    x[7, 47] = value
    found = fast(x, routes)
    assert not found[7].isfinite().any()
    keep = [row for row in range(40) if row != 7]
    assert torch.equal(found[keep], clean[keep])


@native
@pytest.mark.parametrize("make", [NativeExperts, NativeInt8Experts])
def test_an_expert_that_no_row_takes_is_not_read(make):
    """Weights that are not numbers show where they are read."""
    shape = (8, 48, 20, 2)
    weights = weights_of(shape, "gated")
    x, routes, _ = inputs(shape, 3)
    taken = set(routes.experts.flatten().tolist())
    expected = make(weights)(x, routes)
    for expert in set(range(8)) - taken:
        weights.up[expert], weights.down[expert] = float("nan"), float("nan")
    assert torch.equal(make(weights)(x, routes), expected)
