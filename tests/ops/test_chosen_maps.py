"""Rows that take one linear map of several each."""

import pytest
import torch

from stoker.ops.chosen_maps import all_maps, chosen_maps, sorted_maps
from stoker.ops.linear import prepare_linear


@pytest.mark.parametrize("way", [chosen_maps, sorted_maps, all_maps])
@pytest.mark.parametrize(("rows", "inputs", "outputs", "count"), [(1, 3, 5, 1), (29, 40, 17, 6)])
def test_each_row_goes_through_its_map(way, rows, inputs, outputs, count):
    generator = torch.Generator().manual_seed(rows)
    weights = torch.randn(count, outputs, inputs, generator=generator)
    maps = [prepare_linear(one, None) for one in weights]
    x = torch.randn(rows, inputs, generator=generator)
    chosen = torch.randint(max(count - 1, 1), (rows,), generator=generator)  # the last is idle
    y = way(maps, x, chosen)
    expected = torch.stack([weights[number] @ row for number, row in zip(chosen, x, strict=True)])
    torch.testing.assert_close(y, expected)
    assert way(maps, x[:0], chosen[:0]).shape == (0, outputs)
    alone = [way(maps, x[n : n + 1], chosen[n : n + 1]) for n in range(rows)]
    torch.testing.assert_close(y, torch.cat(alone))
