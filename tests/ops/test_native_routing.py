"""Routing in one pass against its definition."""

import pytest
import torch

from stoker.ops.native.build import load_kernels
from stoker.ops.routing import NativeRoute, Routing, prepare_route, route

native = pytest.mark.skipif(load_kernels("routing") is None, reason="no C compiler")
ROUTINGS = [
    Routing(8, 2),
    Routing(128, 8, normalised=True),
    Routing(5, 5, "sigmoid", normalised=True, scale=2.5),
    Routing(16, 3, "sigmoid", correction="score", gains=True),
    Routing(32, 4, "softmax of chosen"),
    Routing(32, 4, "softmax of chosen", correction="logit"),
    Routing(32, 4, "sigmoid", "score", 8, 3, 2, normalised=True),
    Routing(160, 6, "softmax", groups=8, top_groups=3, scale=16.0),
    Routing(64, 6, "softmax", normalised=True, floor=0.5),
    Routing(3, 1, "softmax"),
    Routing(12, 2, "sigmoid", "score", logit_cap=1.5),
]


@native
@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_as_the_definition(routing):
    torch.manual_seed(0)
    logits = torch.randn(200, routing.experts) * 3
    vectors = [torch.randn(routing.experts) / 4 for _ in range(2)]
    correction, gains = vectors[0] if routing.correction else None, None
    if routing.gains:
        gains = vectors[1]
    fast = prepare_route(routing, torch.device("cpu"))
    assert isinstance(fast, NativeRoute)
    found, expected = fast(logits, correction, gains), route(logits, routing, correction, gains)
    assert torch.equal(found.experts, expected.experts)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-5, atol=1e-7)
    for row in (0, 77):
        alone = fast(logits[row : row + 1], correction, gains)
        assert torch.equal(alone.experts[0], found.experts[row])
        assert torch.equal(alone.weights[0], found.weights[row])
    assert fast(logits[:0], correction, gains).weights.shape == (0, routing.active)


@native
def test_of_equal_experts_the_first_is_taken():
    fast = prepare_route(Routing(6, 3), torch.device("cpu"))
    assert fast(torch.zeros(1, 6), None, None).experts.tolist() == [[0, 1, 2]]
    logits = torch.tensor([[1.0, 2, 2, 0, 2, 2]])
    assert fast(logits, None, None).experts.tolist() == [[1, 2, 4]]


@native
def test_a_row_that_is_not_finite_stays_so():
    fast = prepare_route(Routing(6, 3, normalised=True), torch.device("cpu"))
    logits = torch.randn(3, 6)
    logits[1] = float("nan")
    found = fast(logits, None, None)
    assert found.weights.isnan().any(dim=1).tolist() == [False, True, False]
    assert ((found.experts >= 0) & (found.experts < 6)).all()


@pytest.mark.parametrize(
    "routing", [Routing(8, 2, "sparse mixer", jitter=0.1), Routing(8, 2, logit_cap=3.0)]
)
def test_what_the_kernel_does_not_know_takes_the_definition(routing):
    logits = torch.randn(5, 8)
    found = prepare_route(routing, torch.device("cpu"))(logits, None, None)
    assert torch.equal(found.experts, route(logits, routing).experts)
