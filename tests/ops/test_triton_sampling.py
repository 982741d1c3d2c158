"""The Triton kernels of draws against the definition."""

import random

import pytest
import torch
from test_draw import make_batch, make_rows, signed, tensors

from stoker.ops import sampling
from stoker.ops.triton.available import interpreted

pytest.importorskip("triton", reason="Triton is not installed")
fused = pytest.importorskip("stoker.ops.triton.sampling")

DEVICE = "cpu" if interpreted() else "cuda"


@pytest.mark.parametrize(
    ("vocab", "sizes"),
    [(130, (64, 8, 16)), (1, (4096, 64, 2048)), (517, (4096, 64, 2048))],
)
@pytest.mark.parametrize("kind", ["coarse", "barred", "flat", "wide", "narrow"])
def test_tokens_are_those_of_the_definition(kind, vocab, sizes, monkeypatch):
    for name, value in zip(("CHUNK", "GROUP", "BLOCK"), sizes, strict=True):
        monkeypatch.setattr(fused, name, value)
    rng = random.Random(vocab)
    logits, batch = make_rows(rng, 16, vocab, kind).to(DEVICE), make_batch(rng, 16)
    given = tensors(batch, DEVICE)
    assert torch.equal(fused.draw(logits, *given), sampling.draw(logits, *given))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes_and_rows_that_lie_apart(dtype):
    rng = random.Random(4)
    logits = make_rows(rng, 12, 400, "narrow").to(dtype).to(DEVICE)[::2, 40:353]
    given = tensors(make_batch(rng, 6), DEVICE)
    assert torch.equal(fused.draw(logits, *given), sampling.draw(logits, *given))


@pytest.mark.parametrize("has_k", [True, False])
@pytest.mark.parametrize("has_p", [True, False])
def test_filters_may_be_left_out(has_k, has_p):
    rng = random.Random(5)
    logits = make_rows(rng, 8, 300, "narrow").to(DEVICE)
    temperature, top_k, top_p, *rest = tensors(make_batch(rng, 8), DEVICE)
    given = (temperature, top_k if has_k else None, top_p if has_p else None, *rest)
    assert torch.equal(fused.draw(logits, *given), sampling.draw(logits, *given))


def test_many_rows_come_in_parts(monkeypatch):
    monkeypatch.setattr(fused, "SCRATCH", 8 * 100 * 3)
    rng = random.Random(6)
    logits, given = make_rows(rng, 8, 100, "wide").to(DEVICE), tensors(make_batch(rng, 8), DEVICE)
    assert torch.equal(fused.draw(logits, *given), sampling.draw(logits, *given))


def test_nothing_is_read_that_was_not_written(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, **o: empty(*a, **o).fill_(-(10**6) if "int" in str(o) else 3e38)
    )
    rng = random.Random(7)
    logits, given = make_rows(rng, 8, 200, "narrow").to(DEVICE), tensors(make_batch(rng, 8), DEVICE)
    assert torch.equal(fused.draw(logits, *given), sampling.draw(logits, *given))


def test_extremes():
    logits = torch.tensor([[0.0, 1e4, -1e4, 1e4], [-torch.inf, 2.0, 2.0, -torch.inf]]).to(DEVICE)
    for temperature, k, p in [(0.0, 0, 1.0), (1e-6, 1, 1.0), (0.5, 3, 1e-9), (1e-30, 1, 0.5)]:
        given = (
            torch.full((2,), temperature),
            torch.full((2,), k),
            torch.full((2,), p, dtype=torch.float64),
            signed([3, 1 << 63]),
            torch.tensor([9, 10]),
        )
        found = fused.draw(logits, *(value.to(DEVICE) for value in given))
        assert found.tolist() == [1, 1]


def test_no_rows():
    none = torch.empty(0, 10, device=DEVICE)
    given = tensors(make_batch(random.Random(0), 0), DEVICE)
    assert fused.draw(none, *given).shape == (0,)
