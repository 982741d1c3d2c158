"""Temperatures that float32 does not tell from 0 are greedy in every form of the draw."""

import math

import pytest
import torch

from stoker import SamplingParams
from stoker.engine.sampling.sampler import SamplingBatch
from stoker.errors import InvalidRequestError
from stoker.job.answer_cache import AnswerCache
from stoker.ops.draw import draw
from stoker.ops.draw_cpu import draw_on_cpu

ROWS, VOCAB = 8, 300
VANISHING = [1e-50, 1e-46, 1e-45, 1e-40, 1.17e-38, 5e-324]


def forms():
    yield draw
    yield draw_on_cpu
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    assert triton
    from stoker.ops.triton import draw as fused
    from stoker.ops.triton.available import interpreted

    if interpreted():
        yield fused.draw


def batch_at(temperature, **filters):
    params = SamplingParams(temperature=temperature, **filters)
    columns = (params.temperature, params.top_k, params.top_p)
    return SamplingBatch(*([one] * ROWS for one in columns), [*range(ROWS)], [*range(ROWS)])


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
    batch = batch_at(temperature, **filters)
    batch.temperature[0] = 1.0  # so that the others go through a draw that is not greedy
    for form in forms():
        tokens = form(logits, batch.params(VOCAB, logits.device)).tokens.tolist()
        assert tokens[1:] == expected[1:], form


@pytest.mark.parametrize("temperature", [1.2e-38, 1e-30, 1e-6])
def test_the_least_temperatures_take_one_of_the_likeliest(temperature):
    assert not SamplingParams(temperature=temperature).greedy
    logits = logits_with_ties()
    for form in forms():
        tokens = form(logits, batch_at(temperature).params(VOCAB, logits.device)).tokens
        assert torch.equal(logits.gather(1, tokens[:, None])[:, 0], logits.amax(-1)), form


@pytest.mark.parametrize("temperature", [1e30, 3.4e38, 1e39, 1e300, 10**300])
def test_beyond_float32_all_tokens_are_equally_likely(temperature, recwarn):
    logits = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1))
    logits[:, ::2] = -math.inf  # barred tokens stay barred
    flat = torch.where(logits.isfinite(), 0.0, logits)
    for form in forms():
        tokens = form(logits, batch_at(temperature).params(VOCAB, logits.device)).tokens
        expected = form(flat, batch_at(1.0).params(VOCAB, logits.device)).tokens
        assert torch.equal(tokens, expected), form
    assert not [one for one in recwarn if "overflow" in str(one.message)]


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
