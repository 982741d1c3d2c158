"""The Triton kernels of draws against the definition."""

import random

import pytest
import torch
from test_draw import make_params, make_rows, signed

from stoker.ops.draw import DrawParams, draw
from stoker.ops.triton.available import interpreted

pytest.importorskip("triton", reason="Triton is not installed")
fused = pytest.importorskip("stoker.ops.triton.draw")

DEVICE = "cpu" if interpreted() else "cuda"


def on_device(params):
    return DrawParams(*(None if one is None else one.to(DEVICE) for one in params))


def check(logits, params):
    found, expected = fused.draw(logits, params), draw(logits, params)
    assert torch.equal(found.tokens, expected.tokens)
    return found, expected


@pytest.mark.parametrize(
    ("vocab", "sizes"),
    [(130, (64, 8, 16)), (1, (4096, 64, 2048)), (517, (4096, 64, 2048))],
)
@pytest.mark.parametrize("kind", ["coarse", "barred", "flat", "wide", "narrow"])
def test_tokens_are_those_of_the_definition(kind, vocab, sizes, monkeypatch):
    for name, value in zip(("CHUNK", "GROUP", "BLOCK"), sizes, strict=True):
        monkeypatch.setattr(fused, name, value)
    rng = random.Random(vocab)
    logits, params = make_rows(rng, 16, vocab, kind).to(DEVICE), make_params(rng, 16)
    found, expected = check(logits, on_device(params))
    assert torch.equal(found.tops, expected.tops.float())


@pytest.mark.parametrize("kind", ["coarse", "barred", "narrow"])
def test_min_p_and_typical_p_act_too(kind):
    rng = random.Random(11)
    logits, params = make_rows(rng, 16, 130, kind).to(DEVICE), make_params(rng, 16, tails=True)
    check(logits, on_device(params))


def test_a_row_without_a_token_disturbs_no_other():
    rng = random.Random(12)
    logits, params = make_rows(rng, 4, 130, "narrow").to(DEVICE), on_device(make_params(rng, 4))
    logits[2] = -torch.inf
    found, expected = fused.draw(logits, params), draw(logits, params)
    assert found.tops.isfinite().tolist() == [True, True, False, True]
    for row in (0, 1, 3):
        assert found.tokens[row] == expected.tokens[row]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes_and_rows_that_lie_apart(dtype):
    rng = random.Random(4)
    logits = make_rows(rng, 12, 400, "narrow").to(dtype).to(DEVICE)[::2, 40:353]
    check(logits, on_device(make_params(rng, 6)))


@pytest.mark.parametrize("has_k", [True, False])
@pytest.mark.parametrize("has_p", [True, False])
def test_filters_may_be_left_out(has_k, has_p):
    rng = random.Random(5)
    logits = make_rows(rng, 8, 300, "narrow").to(DEVICE)
    params = on_device(make_params(rng, 8))
    check(logits, params._replace(**({} if has_k else {"top_k": None})))
    check(logits, params._replace(**({} if has_p else {"top_p": None})))


def test_many_rows_come_in_parts(monkeypatch):
    monkeypatch.setattr(fused, "SCRATCH", 8 * 100 * 3)
    rng = random.Random(6)
    logits, params = make_rows(rng, 8, 100, "wide").to(DEVICE), on_device(make_params(rng, 8))
    check(logits, params)


def test_nothing_is_read_that_was_not_written(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, **o: empty(*a, **o).fill_(-(10**6) if "int" in str(o) else 3e38)
    )
    rng = random.Random(7)
    logits, params = make_rows(rng, 8, 200, "narrow").to(DEVICE), on_device(make_params(rng, 8))
    check(logits, params)


def test_extremes():
    logits = torch.tensor([[0.0, 1e4, -1e4, 1e4], [-torch.inf, 2.0, 2.0, -torch.inf]]).to(DEVICE)
    for temperature, k, p in [(0.0, 0, 1.0), (1e-6, 1, 1.0), (0.5, 3, 1e-9), (1e-30, 1, 0.5)]:
        params = DrawParams(
            torch.full((2,), temperature),
            signed([3, 1 << 63]),
            torch.tensor([9, 10]),
            torch.full((2,), k),
            torch.full((2,), p, dtype=torch.float64),
        )
        assert fused.draw(logits, on_device(params)).tokens.tolist() == [1, 1]


def test_no_rows():
    none = torch.empty(0, 10, device=DEVICE)
    params = on_device(make_params(random.Random(0), 0))
    assert fused.draw(none, params).tokens.shape == (0,)
