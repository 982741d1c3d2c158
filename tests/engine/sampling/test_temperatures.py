"""Temperatures that float32 does not tell from 0 are greedy in every form of the draw."""

import importlib.util
import math

import pytest
import torch

from stoker import SamplingParams
from stoker.errors import InvalidRequestError
from stoker.job.answer_cache import AnswerCache
from stoker.ops.draw import DrawParams, draw
from stoker.ops.draw_cpu import draw_on_cpu

ROWS, VOCAB = 8, 300
VANISHING = [1e-50, 1e-46, 1e-45, 1e-40, 1.17e-38, 5e-324]


def forms():
    yield draw
    yield draw_on_cpu
    if importlib.util.find_spec("triton") is not None:
        from stoker.ops.triton import draw as fused
        from stoker.ops.triton.available import interpreted

        if interpreted():
            yield fused.draw


def draw_params(temperature, first=None, **filters):
    """Of rows at one temperature, or all but the `first`."""
    params = SamplingParams(temperature=temperature, **filters)
    found = torch.full((ROWS,), params.temperature, dtype=torch.float64)
    if first is not None:
        found[0] = first
    return DrawParams(
        found.float(),
        torch.arange(ROWS),
        torch.arange(ROWS),
        torch.full((ROWS,), params.top_k) if "top_k" in filters else None,
        torch.full((ROWS,), params.top_p, dtype=torch.float64) if "top_p" in filters else None,
    )


def logits_with_ties():
    """Of equally likely tokens greedy takes the first, and a draw any of them."""
    logits = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1)).mul(4).round()
    assert ((logits == logits.amax(-1, keepdim=True)).sum(-1) > 1).any()
    return logits


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.9}])
@pytest.mark.parametrize("temperature", VANISHING)
def test_temperatures_that_vanish_are_greedy(temperature, filters):
    assert SamplingParams(temperature=temperature).greedy
    logits = logits_with_ties()
    expected = logits.argmax(-1).tolist()
    params = draw_params(temperature, first=1.0, **filters)  # so that not all are greedy
    for form in forms():
        tokens = form(logits, params).tokens.tolist()
        assert tokens[1:] == expected[1:], form


@pytest.mark.parametrize("temperature", [1.2e-38, 1e-30, 1e-6])
def test_the_least_temperatures_take_one_of_the_likeliest(temperature):
    assert not SamplingParams(temperature=temperature).greedy
    logits = logits_with_ties()
    for form in forms():
        tokens = form(logits, draw_params(temperature)).tokens
        assert torch.equal(logits.gather(1, tokens[:, None])[:, 0], logits.amax(-1)), form


@pytest.mark.parametrize("temperature", [1e30, 3.4e38, 1e39, 1e300, 10**300])
def test_beyond_float32_all_tokens_are_equally_likely(temperature):
    logits = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1))
    logits[:, ::2] = -math.inf  # barred tokens stay barred
    flat = torch.where(logits.isfinite(), 0.0, logits)
    for form in forms():
        tokens = form(logits, draw_params(temperature)).tokens
        expected = form(flat, draw_params(1.0)).tokens
        assert torch.equal(tokens, expected), form


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -math.inf, -1e-50, 10**400, "1", True])
def test_no_temperature(temperature):
    with pytest.raises(InvalidRequestError, match="temperature must be"):
        SamplingParams(temperature=temperature)


def test_a_vanishing_temperature_counts_as_greedy_everywhere():
    tiny, zero = SamplingParams(temperature=1e-50), SamplingParams(temperature=0)
    assert tiny == zero
    assert AnswerCache(zero).key([1], tiny, False) is not None  # it may be copied
    with pytest.raises(InvalidRequestError, match="temperature 0"):
        SamplingParams(temperature=1e-45, best_of=2)
