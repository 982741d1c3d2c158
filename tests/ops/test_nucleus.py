"""Top-k and top-p by partial selection against a sort of the whole row."""

import random

import numpy as np
import pytest
import torch

from stoker.ops import nucleus
from stoker.ops.draw import DrawParams, uniforms
from stoker.ops.draw_cpu import draw_on_cpu
from stoker.ops.nucleus import draw_kept, filter_logits, keep_top


def by_sorting(row, k, p):
    """The ids that a row (V,) keeps."""
    values = row.double().numpy()
    order = np.argsort(-values, kind="stable")[: k if k > 0 else len(values)]
    weights = np.exp(values[order] - values.max())
    reached = np.cumsum(weights)
    kept = order if p >= 1 else order[reached - weights < p * weights.sum()]
    return sorted(token for token in kept.tolist() if values[token] > -np.inf)


def ks(*values):
    return torch.tensor(values, dtype=torch.int64)


def ps(*values):
    return torch.tensor(values, dtype=torch.float64)


def ids_of(kept, count):
    return [kept.ids[kept.rows == row].tolist() for row in range(count)]


def make_row(rng, kind, vocab):
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(rng.getrandbits(32)))
    if kind == "coarse":  # as logits of a bfloat16 model: many are equal
        return row.mul(4).bfloat16().float()
    if kind == "barred":
        row[torch.rand(vocab) < 0.9] = -torch.inf
        row[rng.randrange(vocab)] = 1.0
        return row
    return {"flat": row * 0.0, "wide": row * 0.3, "narrow": row * 6}[kind]


KINDS = ("coarse", "barred", "flat", "wide", "narrow")


@pytest.fixture(params=[(1024, 16384), (4, 32), (1, 2)], ids=str)
def widths(request, monkeypatch):
    monkeypatch.setattr(nucleus, "WIDTHS", request.param)


@pytest.mark.parametrize("seed", range(6))
def test_it_keeps_what_a_sort_keeps(seed, widths):
    rng = random.Random(seed)
    kinds = [rng.choice(KINDS) for _ in range(60)]
    logits = torch.stack([make_row(rng, kind, 300) for kind in kinds])
    top_k = [rng.choice([0, -1, 1, 2, 5, 40, 299, 300, 1000]) for _ in kinds]
    # 0.37 of equal weights never falls on a boundary, which rounding would decide
    top_p = [rng.choice([1.0, 0.951, 0.613, 0.37, 0.011, 1e-9]) for _ in kinds]
    expected = [by_sorting(*row) for row in zip(logits, top_k, top_p, strict=True)]
    kept = keep_top(logits, ks(*top_k), ps(*top_p))
    assert ids_of(kept, len(kinds)) == expected
    filtered = filter_logits(logits, ks(*top_k), ps(*top_p))
    assert [row.isfinite().nonzero()[:, 0].tolist() for row in filtered] == expected
    assert torch.equal(filtered[kept], logits[kept])


def test_a_row_keeps_and_draws_the_same_in_any_company_and_width(monkeypatch):
    rng = random.Random(1)
    logits = torch.stack([make_row(rng, rng.choice(KINDS), 500) for _ in range(50)])
    logits -= logits.amax(-1, keepdim=True)
    top_k = ks(*(rng.choice([0, 3, 50, 200]) for _ in logits))
    top_p = ps(*(rng.choice([1.0, 0.9, 0.5]) for _ in logits))
    numbers = uniforms(torch.full((50,), 9), torch.arange(50))

    def run(part):
        chosen = logits[part]
        kept = keep_top(chosen, top_k[part], top_p[part])
        return ids_of(kept, len(chosen)), draw_kept(chosen, kept, numbers[part]).tolist()

    together = run(slice(None))
    for at in range(50):
        assert run(slice(at, at + 1)) == ([together[0][at]], [together[1][at]])
    for widths in ((1, 7), (64,), (500,)):
        monkeypatch.setattr(nucleus, "WIDTHS", widths)
        assert run(slice(None)) == together


@pytest.mark.parametrize(("k", "p", "kept"), [(3, 1.0, 3), (0, 0.3, 3), (5, 0.5, 3), (0, 0.01, 1)])
def test_of_equal_logits_the_lower_ids_are_kept(k, p, kept):
    logits = torch.full((2, 2000), -torch.inf)
    logits[:, 1000:1010] = 2.0  # p = 0.3 of ten equal ones; rounding may ask for a fourth
    p = p * 0.99 if p < 1 else p
    found = ids_of(keep_top(logits, ks(k, k), ps(p, p)), 2)
    assert found == [list(range(1000, 1000 + kept))] * 2


def test_a_large_vocabulary_needs_all_widths():
    """Rows of a nucleus of a few tokens, of thousands, and of most of the vocabulary."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 40_000, generator=generator) * torch.tensor([[6.0], [2.0], [0.2]])
    kept = keep_top(logits, ks(0, 0, 0), ps(0.9, 0.9, 0.9))
    counts = torch.bincount(kept.rows).tolist()
    assert counts[0] < nucleus.WIDTHS[0] < counts[1] < nucleus.WIDTHS[1] < counts[2]
    assert ids_of(kept, 3) == [by_sorting(row, 0, 0.9) for row in logits]


def test_a_number_at_the_very_end_draws_a_likely_token():
    logits = torch.tensor([[0.0, -1.0, -900.0, -2.0], [-900.0, 0.0, -900.0, -900.0]])
    kept = keep_top(logits, ks(4, 3), ps(1.0, 1.0))
    assert draw_kept(logits, kept, ps(1.0, 1.0)).tolist() == [3, 1]
    assert draw_kept(logits, kept, ps(0.0, 0.0)).tolist() == [0, 1]
    params = DrawParams(torch.full((2,), 1e-5), ks(1, 2), ks(3, 4), ks(3, 3), ps(1.0, 1.0))
    assert draw_on_cpu(logits, params).tokens.tolist() == [0, 1]
