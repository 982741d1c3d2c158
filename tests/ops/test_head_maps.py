"""Linear maps of each head: the C kernel against the definition, and its bits in any batch."""

import pytest
import torch

from stoker.ops.head_maps import NativeHeadMaps, PlainHeadMaps
from stoker.ops.native.build import load_kernels

pytestmark = pytest.mark.skipif(load_kernels("linear") is None, reason="no C compiler")


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 37])
@pytest.mark.parametrize(("heads", "outputs", "inputs"), [(3, 32, 16), (5, 40, 7), (1, 5, 66)])
def test_equals_the_definition(rows, heads, outputs, inputs):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(heads, outputs, inputs, generator=generator)
    x = torch.randn(rows, heads, inputs + 3, generator=generator)[..., :inputs]
    beyond = torch.full((rows, heads, outputs + 2), -7.0)
    out = NativeHeadMaps(weight)(x, beyond[..., :outputs])
    expected = PlainHeadMaps(weight)(x, torch.empty(rows, heads, outputs))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert (beyond[..., outputs:] == -7).all(), "what lies between the heads is left alone"


def test_a_row_has_the_same_bits_in_any_batch():
    weight, x = torch.randn(4, 48, 24), torch.randn(33, 4, 24)
    maps = NativeHeadMaps(weight)
    together = maps(x, torch.empty(33, 4, 48))
    for end in (4, 5, 17, 18):
        assert torch.equal(maps(x[3:end], torch.empty(end - 3, 4, 48)), together[3:end])
