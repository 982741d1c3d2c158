"""The largest logit and its place."""

import pytest
import torch

from stoker.ops.draw_cpu import largest


@pytest.mark.parametrize("size", [1, 63, 1024, 1025, 2047, 5000])
@pytest.mark.parametrize("levels", [1, 3, 1000000])
def test_it_is_the_first_of_the_largest(size, levels):
    generator = torch.Generator().manual_seed(size)
    logits = torch.randint(levels, (37, size), generator=generator).float() - levels / 2
    logits[5] = -torch.inf
    logits[6, -1] = torch.inf
    want = torch.tensor([row.tolist().index(max(row.tolist())) for row in logits])
    values, places = largest(logits)
    assert torch.equal(places, want)
    assert torch.equal(values, logits.amax(-1))


def test_rows_that_lie_apart_and_other_dtypes():
    logits = torch.randn(8, 3000)
    for some in (logits[::2, 7:2900], logits.double()):
        values, places = largest(some)
        assert torch.equal(places, some.argmax(-1))
        assert torch.equal(values, some.amax(-1))
    assert largest(logits[:0])[1].shape == (0,)
