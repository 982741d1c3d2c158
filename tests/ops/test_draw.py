"""The definition of draws against a scalar twin, the form for a CPU against the definition."""

import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from stoker.ops.draw import DrawParams, _hash, cut_tails, draw, keep_top, uniforms
from stoker.ops.draw_cpu import draw_on_cpu
from stoker.ops.tail_filters import cut_min_p, cut_typical

INF = math.inf
KINDS = ("coarse", "barred", "flat", "wide", "narrow")


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


def make_params(rng, count, tails=False):
    """Random parameters; with `tails` some rows use min-p and typical-p."""

    def column(values, dtype):
        return torch.tensor([rng.choice(values) for _ in range(count)], dtype=dtype)

    params = DrawParams(
        temperature=column([0.0, 0.3, 1.0, 2.0], torch.float32),
        seeds=signed([rng.getrandbits(64) for _ in range(count)]),
        positions=torch.tensor([rng.randrange(1 << 20) for _ in range(count)], dtype=torch.int64),
        top_k=column([0, -1, 1, 3, 20, 10**6], torch.int64),
        top_p=column([1.0, 0.99, 0.9, 0.5, 0.01], torch.float64),
    )
    if not tails:
        return params
    return params._replace(
        min_p=column([0.0, 0.0, 0.013, 0.31, 1.0], torch.float64),
        typical_p=column([1.0, 1.0, 0.83, 0.21], torch.float64),
    )


def signed(seeds):
    """Unsigned 64-bit seeds as tensors hold them."""
    return torch.tensor([seed - (seed >> 63 << 64) for seed in seeds], dtype=torch.int64)


def scalar_uniform(seed, position):
    """splitmix64's finaliser, with Python's integers."""
    z, mask = seed, (1 << 64) - 1
    for word in (position, 0):
        z = (z + (word + 1) * 0x9E3779B97F4A7C15) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        z ^= z >> 31
    return (z >> 11) * 2.0**-53


def test_uniform_numbers_are_those_of_the_hash():
    rng = random.Random(1)
    seeds = [0, 1, (1 << 64) - 1, 1 << 63, *(rng.getrandbits(64) for _ in range(500))]
    positions = [rng.randrange(1 << 40) for _ in seeds]
    expected = [scalar_uniform(*pair) for pair in zip(seeds, positions, strict=True)]
    assert uniforms(signed(seeds), torch.tensor(positions)).tolist() == expected
    bits = _hash(signed(seeds), torch.tensor(positions))  # as on a device
    assert (bits.double() * 2.0**-53).tolist() == expected


def test_uniform_numbers_are_uniform_over_seeds_and_positions():
    some = torch.arange(5000)
    by_position = uniforms(torch.full((5000,), 7), some).numpy()
    by_seed = uniforms(some, torch.full((5000,), 3)).numpy()
    for numbers in (by_position, by_seed):
        assert ((numbers >= 0) & (numbers < 1)).all()
        assert stats.kstest(numbers, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(by_position[1:], by_position[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize("vocab", [1, 7, 300, 5000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tails", [False, True])
def test_a_cpu_draws_what_the_definition_draws(kind, vocab, tails):
    rng = random.Random(vocab)
    logits, params = make_rows(rng, 64, vocab, kind), make_params(rng, 64, tails)
    before = logits.clone()
    expected, found = draw(logits, params), draw_on_cpu(logits, params)
    assert torch.equal(logits, before)
    assert found.tokens.dtype == expected.tokens.dtype == torch.int64
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert torch.equal(found.tops, expected.tops)
    assert torch.equal(found.tops.float(), logits.float().amax(-1))


@pytest.mark.parametrize("form", [draw, draw_on_cpu])
def test_a_row_without_a_token_disturbs_no_other(form):
    rng = random.Random(8)
    logits, params = make_rows(rng, 6, 50, "narrow"), make_params(rng, 6, True)
    expected = form(logits, params)
    logits[1], logits[4] = -INF, -INF
    found = form(logits, params)
    assert found.tops.isfinite().tolist() == [True, False, True, True, False, True]
    for row in (0, 2, 3, 5):
        assert found.tokens[row] == expected.tokens[row]


def test_no_filters_are_filters_that_keep_all():
    rng = random.Random(3)
    logits, params = make_rows(rng, 64, 300, "wide"), make_params(rng, 64)
    off = {
        "top_k": torch.zeros(64, dtype=torch.int64),
        "top_p": torch.ones(64, dtype=torch.float64),
        "min_p": torch.zeros(64, dtype=torch.float64),
        "typical_p": torch.ones(64, dtype=torch.float64),
    }
    for form in (draw, draw_on_cpu):
        for name, value in off.items():
            without, given = params._replace(**{name: None}), params._replace(**{name: value})
            assert torch.equal(form(logits, without).tokens, form(logits, given).tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_tails_may_be_cut_before_a_draw(kind):
    rng = random.Random(7)
    logits, params = make_rows(rng, 64, 300, kind), make_params(rng, 64, True)
    cut, rest = cut_tails(logits, params)
    assert rest.min_p is None
    assert rest.typical_p is None
    assert torch.equal(draw(cut, rest).tokens, draw(logits, params).tokens)


@pytest.mark.parametrize("form", [draw, draw_on_cpu])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (4, 1.0), (0, 0.8), (5, 0.9)])
def test_chi_square(form, top_k, top_p):
    logits, draws = torch.tensor([0.3, 1.2, -0.5, 2.0, 0.0, 1.0, -2.0, 0.7]), 20000
    k, p = torch.tensor([top_k]), torch.tensor([top_p], dtype=torch.float64)
    params = DrawParams(
        torch.ones(draws),
        torch.full((draws,), 1234),
        torch.arange(draws),
        k.expand(draws),
        p.expand(draws),
    )
    tokens = form(logits.expand(draws, -1), params).tokens
    scores = logits[None] - logits.max()
    expected = logits[None].masked_fill(~keep_top(scores, k, p), -INF).softmax(-1)[0].numpy()
    expected = expected.astype(float) * draws
    seen = np.bincount(tokens, minlength=8)
    assert not seen[expected == 0].any()
    likely = expected > 0
    assert stats.chisquare(seen[likely], expected[likely] / expected.sum() * draws).pvalue > 1e-4


def test_tail_filters_at_their_edges():
    def column(*values):
        return torch.tensor(values, dtype=torch.float64)

    scores = torch.tensor([[2.0, 2.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    kept = torch.isfinite(cut_min_p(scores, column(1.0, 1.0)))
    assert kept.tolist() == [[True, True, False, False], [True] * 4]
    assert torch.isfinite(cut_min_p(scores, column(1e-9, 0.0))).all()
    assert torch.isfinite(cut_typical(scores, column(1e-9, 1e-9))).sum(-1).tolist() == [1, 1]
    assert torch.isfinite(cut_typical(scores, column(1.0, 1.0))).all()
    barred = torch.tensor([[1.0, -INF, 0.5, -INF]])
    assert torch.isfinite(cut_typical(barred, column(0.99))).tolist() == [
        [True, False, True, False]
    ]
