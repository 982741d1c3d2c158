"""Draws on the device against the sampler that works for the host."""

import random

import pytest
import torch

from stoker.engine.sampling import sampler
from stoker.ops.sampling import draw, uniforms


def make_rows(rng, count, vocab, kind):
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    logits = torch.randn(count, vocab, generator=generator)
    if kind == "coarse":  # as logits of a bfloat16 model: many are equal
        logits = (logits * 4).bfloat16()
    elif kind == "barred":
        logits[torch.rand(count, vocab, generator=generator) < 0.9] = -torch.inf
        logits[:, rng.randrange(vocab)] = 1.0
    else:
        logits *= {"flat": 0.0, "wide": 0.3, "narrow": 6.0}[kind]
    return logits


def make_batch(rng, count):
    return sampler.SamplingBatch(
        [rng.choice([0.0, 0.3, 1.0, 2.0]) for _ in range(count)],
        [rng.choice([0, -1, 1, 3, 20, 10**6]) for _ in range(count)],
        [rng.choice([1.0, 0.99, 0.9, 0.5, 0.01]) for _ in range(count)],
        [rng.getrandbits(64) for _ in range(count)],
        [rng.randrange(1 << 20) for _ in range(count)],
    )


def signed(seeds):
    """Unsigned 64-bit seeds as the device holds them."""
    return torch.tensor([seed - (seed >> 63 << 64) for seed in seeds])


def tensors(batch, device="cpu"):
    """The parameters of `draw` for a batch."""
    values = (
        torch.tensor(batch.temperature),
        torch.tensor(batch.top_k),
        torch.tensor(batch.top_p, dtype=torch.float64),
        signed(batch.seeds),
        torch.tensor(batch.positions),
    )
    return tuple(value.to(device) for value in values)


def test_uniform_numbers_are_those_of_the_host():
    rng = random.Random(1)
    seeds = [0, 1, (1 << 64) - 1, 1 << 63, *(rng.getrandbits(64) for _ in range(500))]
    positions = [rng.randrange(1 << 40) for _ in seeds]
    expected = sampler.uniforms(seeds, positions)
    assert uniforms(signed(seeds), torch.tensor(positions)).tolist() == expected.tolist()


@pytest.mark.parametrize("vocab", [1, 7, 300, 5000])
@pytest.mark.parametrize("kind", ["coarse", "barred", "flat", "wide", "narrow"])
def test_tokens_are_those_of_the_sampler(kind, vocab):
    rng = random.Random(vocab)
    logits, batch = make_rows(rng, 64, vocab, kind), make_batch(rng, 64)
    before = logits.clone()
    found = draw(logits, *tensors(batch))
    assert found.dtype == torch.int64
    assert torch.equal(logits, before)
    assert found.tolist() == sampler.sample(logits.clone(), batch)


def test_no_filters_are_filters_that_keep_all():
    rng = random.Random(3)
    logits, batch = make_rows(rng, 64, 300, "wide"), make_batch(rng, 64)
    temperature, top_k, top_p, *rest = tensors(batch)
    off = (torch.zeros_like(top_k), torch.ones_like(top_p))
    for given in ((None, None), (None, off[1]), (off[0], None)):
        assert torch.equal(
            draw(logits, temperature, *given, *rest), draw(logits, temperature, *off, *rest)
        )
    assert torch.equal(
        draw(logits, temperature, top_k, None, *rest),
        draw(logits, temperature, top_k, off[1], *rest),
    )
    assert torch.equal(
        draw(logits, temperature, None, top_p, *rest),
        draw(logits, temperature, off[0], top_p, *rest),
    )
