"""Routing and the reference of experts against transformers' routers and plain loops."""

import pytest
import torch
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from stoker.ops.experts import ExpertWeights, run_experts
from stoker.ops.routing import Routes, Routing, route

TOKENS, EXPERTS, HIDDEN, SIZE = 17, 8, 12, 5


def logits(seed=0):
    return torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("jitter", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 3.0])
def test_the_sparse_mixer_is_that_of_phi_moe(jitter, shift):
    scores = logits() + shift
    weights, experts = sparsemixer(scores, jitter_eps=jitter, training=False)
    found = route(scores, Routing(EXPERTS, 2, "sparse mixer", jitter=jitter))
    assert torch.equal(found.experts, experts)
    assert torch.equal(found.weights, weights)


def test_softmax_before_and_after_the_choice_agree_if_normalised():
    before = route(logits(), Routing(EXPERTS, 3, "softmax", normalised=True))
    after = route(logits(), Routing(EXPERTS, 3, "softmax of chosen"))
    assert torch.equal(before.experts, after.experts)
    torch.testing.assert_close(before.weights, after.weights)


@pytest.mark.parametrize("correction", ["score", "logit"])
def test_a_correction_changes_the_choice_and_not_the_weight(correction):
    bias = torch.zeros(EXPERTS)
    bias[5] = 100.0
    routing = Routing(EXPERTS, 2, "sigmoid", correction, scale=2.5)
    found = route(logits(), routing, bias)
    assert (found.experts[:, 0] == 5).all()
    expected = 2.5 * logits().sigmoid().gather(-1, found.experts)
    torch.testing.assert_close(found.weights, expected)


@pytest.mark.parametrize("best", [1, 2])
def test_only_experts_of_the_best_groups_are_taken(best):
    routing = Routing(EXPERTS, 3, "sigmoid", groups=4, top_groups=2, group_best=best)
    scores = logits().sigmoid()
    worth = scores.view(TOKENS, 4, 2).topk(best, dim=-1).values.sum(-1)
    for row, experts in enumerate(route(logits(), routing).experts.tolist()):
        groups = {expert // 2 for expert in experts}
        assert groups <= set(worth[row].topk(2).indices.tolist())
        inside = [e for e in range(EXPERTS) if e // 2 in worth[row].topk(2).indices.tolist()]
        assert set(experts) == set(sorted(inside, key=lambda e: -scores[row, e])[:3])


def test_gains_and_caps():
    gains = torch.arange(1.0, EXPERTS + 1)
    plain = Routing(EXPERTS, 2, "softmax", normalised=True, logit_cap=1.5)
    capped = 1.5 * torch.tanh(logits() / 1.5)
    expected = route(capped, Routing(EXPERTS, 2, "softmax", normalised=True))
    found = route(logits(), plain, gains=gains)
    assert torch.equal(found.experts, expected.experts)
    torch.testing.assert_close(found.weights, expected.weights * gains[expected.experts])


def make(gated=True, bias=False, **fields):
    def random(*shape):
        return torch.randn(*shape)

    torch.manual_seed(1)
    return ExpertWeights(
        random(EXPERTS, SIZE * (2 if gated else 1), HIDDEN),
        random(EXPERTS, HIDDEN, SIZE),
        random(EXPERTS, SIZE * (2 if gated else 1)) if bias else None,
        random(EXPERTS, HIDDEN) if bias else None,
        fields.pop("activation", "silu"),
        gated,
        **fields,
    )


def one_expert(x, weights, expert):
    """A vector through an expert, as gpt-oss has it if it has limits."""
    inner = weights.up[expert] @ x
    if weights.up_bias is not None:
        inner = inner + weights.up_bias[expert]
    if weights.gated:
        gate, up = inner.chunk(2)
        if weights.limit is not None:
            gate, up = gate.clamp(max=weights.limit), up.clamp(-weights.limit, weights.limit)
        slope = {"silu": 1.0, "quick_gelu": 1.702}[weights.activation]
        inner = gate * torch.sigmoid(slope * gate) * (up + weights.shift)
    else:
        inner = torch.relu(inner)
    y = weights.down[expert] @ inner
    return y if weights.down_bias is None else y + weights.down_bias[expert]


@pytest.mark.parametrize(
    "weights",
    [
        make(),
        make(bias=True),
        make(gated=False, activation="relu"),
        make(bias=True, activation="quick_gelu", limit=2.0, shift=1.0),
        make(bias=True, weighs_input=True),
    ],
)
def test_the_reference_is_a_sum_over_a_tokens_experts(weights):
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2))
    routes = route(logits(), Routing(EXPERTS, 3))
    found = run_experts(x, routes, weights)
    for row in range(TOKENS):
        expected = torch.zeros(HIDDEN)
        pairs = zip(routes.experts[row], routes.weights[row], strict=True)
        for expert, weight in pairs:
            if weights.weighs_input:
                expected += one_expert(x[row] * weight, weights, expert)
            else:
                expected += weight * one_expert(x[row], weights, expert)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


def test_experts_without_weights_give_what_they_read():
    weights = make()
    x = torch.randn(3, HIDDEN)
    routes = Routes(torch.tensor([[EXPERTS, 0], [1, 2], [EXPERTS + 1, EXPERTS]]), torch.rand(3, 2))
    found = run_experts(x, routes, weights)
    w = routes.weights
    torch.testing.assert_close(found[2], x[2] * w[2].sum())
    torch.testing.assert_close(found[0], x[0] * w[0, 0] + w[0, 1] * one_expert(x[0], weights, 0))
