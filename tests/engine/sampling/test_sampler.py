"""The vectorised sampler against a slow scalar twin. Statistics are in tests/ops/test_draw.py."""

import math
import random

import pytest
import torch
from draw_rows import params_of

from stoker.engine.request.request import DrawSettings
from stoker.engine.sampling.sampler import SamplingBatch, sample
from stoker.ops.draw import uniforms


def scalar_sample(logits, temperature, top_k, top_p, number):
    """One row, by the book."""
    if temperature == 0:
        return max(range(len(logits)), key=lambda token: (logits[token], -token))
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if top_k > 0:
        ranked = ranked[:top_k]
    total, kept, mass = sum(weights[token] for token in ranked), [], 0.0
    for token in ranked:
        if top_p < 1 and mass >= top_p * total:
            break
        kept.append(token)
        mass += weights[token]
    target, reached = number * mass, 0.0
    for token in sorted(kept):
        reached += weights[token]
        if reached > target:
            return token
    return max(kept)


def asked(rows, vocab):
    """The batch of rows (temperature, top-k, top-p, seed, position), and its parameters."""
    settings = [DrawSettings(t, top_p, 0.0, 1.0, top_k, seed) for t, top_k, top_p, seed, _ in rows]
    return SamplingBatch(settings), params_of(settings, [row[-1] for row in rows], vocab)


def drawn(logits, rows):
    return sample(logits.clone(), *asked(rows, logits.shape[1]))


def random_row(rng, number):
    return (
        rng.choice([0.0, 0.3, 1.0, 2.0]),
        rng.choice([0, -1, 1, 3, 100]),
        rng.choice([1.0, 0.95, 0.5, 0.01]),
        rng.getrandbits(64),
        number,
    )


@pytest.mark.parametrize("seed", range(20))
def test_mixed_rows_equal_the_scalar_twin(seed):
    rng = random.Random(seed)
    rows = [random_row(rng, number) for number in range(64)]
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(seed)) * 3
    _, params = asked(rows, 50)
    numbers = uniforms(params.seeds, params.positions).tolist()
    expected = [scalar_sample(logits[at].tolist(), *rows[at][:3], numbers[at]) for at in range(64)]
    assert drawn(logits, rows) == expected


def test_a_row_does_not_depend_on_the_others():
    rng = random.Random(5)
    rows = [random_row(rng, number) for number in range(40)]
    logits = torch.randn(40, 30)
    together = drawn(logits, rows)
    alone = [drawn(logits[at : at + 1], [rows[at]])[0] for at in range(40)]
    assert together == alone


def test_extremes():
    logits = torch.randn(3, 20)
    best = logits.argmax(-1).tolist()
    for row in [(1e-6, 0, 1.0), (1.0, 1, 1.0), (1.0, 0, 1e-9), (5.0, 1, 0.5)]:
        assert drawn(logits, [(*row, 3, 4)] * 3) == best
    huge = torch.tensor([[0.0, 1e4, -1e4]])
    assert drawn(huge, [(0.5, 0, 1.0, 1, 1)]) == [1]


def test_ties_go_to_the_lower_token():
    rows = [(1.0, 2, 1.0, 0, position) for position in range(50)]
    assert set(drawn(torch.zeros(50, 6), rows)) == {0, 1}
    assert drawn(torch.zeros(1, 6), [(0.0, 0, 1.0, 0, 0)]) == [0]
