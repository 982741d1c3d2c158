"""Barring tokens by masks of bits."""

import numpy as np
import pytest
import torch

from stoker.ops.token_bitmask import bar_unset, bar_unset_reference, unpack


def made_up(rows, width, seed=0):
    """Bits of which many bytes are whole or empty, as grammars have them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (rows, width), np.uint8)
    kind = rng.integers(0, 3, (rows, width))
    bits[kind == 1], bits[kind == 2] = 0, 255
    return bits


@pytest.mark.parametrize("vocab", [1, 7, 8, 9, 255, 256, 301, 3072])
def test_what_has_no_bit_is_barred(vocab):
    bits = made_up(5, -(-vocab // 32) * 4, vocab)
    rows = [6, 0, 3, 2, 5]
    logits = torch.randn(7, vocab)
    want = logits.clone()
    for row, some in zip(rows, bits, strict=True):
        for token in range(vocab):
            if not some[token // 8] >> token % 8 & 1:
                want[row, token] = -torch.inf
    plain = logits.clone()
    bar_unset(logits, rows, bits)
    bar_unset_reference(plain, rows, bits)
    assert torch.equal(logits, want)
    assert torch.equal(plain, want)


def test_other_dtypes_and_rows_that_lie_apart():
    bits = made_up(4, 40)
    allowed = unpack(torch.from_numpy(bits), 300)
    for logits in (torch.randn(4, 300, dtype=torch.bfloat16), torch.randn(8, 320)[::2, :300]):
        want = logits.masked_fill(~allowed, -torch.inf)
        bar_unset(logits, range(4), bits)
        assert torch.equal(logits, want)


def test_no_rows():
    logits = torch.randn(2, 30)
    want = logits.clone()
    bar_unset(logits, [], np.zeros((0, 4), np.uint8))
    assert torch.equal(logits, want)
