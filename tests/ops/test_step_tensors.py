"""What the tokens of a step need, from the definition written out, and by the kernel."""

import importlib.util

import pytest
import torch

from stoker.ops.step_tensors import Inputs, make_inputs

NAMES = [
    "reference",
    pytest.param(
        "triton",
        marks=pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton"),
    ),
]


def implementation(name):
    if name == "reference":
        return make_inputs
    from stoker.ops.triton.step_tensors import make_inputs as fused

    return fused


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("page", [1, 4, 16])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("into", [True, False])
@pytest.mark.parametrize("padding", [9, 0])
def test_inputs(name, page, late, into, padding):
    generator = torch.Generator().manual_seed(page)
    counts, starts = [1, 300, 1, 17, 0, 5], [900, 3, 0, 64, 0, 31]
    idle = 77
    tables = torch.randperm(6000, generator=generator)[: 6 * 1000].view(6, 1000)[:, :999]
    drawn = torch.randint(1000, (7,), generator=generator)
    tokens, owners, want = [], [], []
    for owner, (count, start) in enumerate(zip(counts, starts, strict=True)):
        for position in range(start, start + count):
            asks = late and position == start + count - 1
            tokens.append(~owner if asks else len(tokens) + 5)
            owners.append(owner)
            slot = int(tables[owner, position // page]) * page + position % page
            want.append((int(drawn[owner]) if asks else tokens[-1], position, slot))
    shifts, at = [], 0
    for count, start in zip(counts, starts, strict=True):
        shifts.append(start - at)
        at += count
    for place in range(at, at + padding):
        tokens.append(0)
        owners.append(-1)
        want.append((0, 0, idle * page + place % page))
    out = Inputs(*torch.full((3, len(tokens)), -5).unbind()) if into else None
    found = implementation(name)(
        torch.tensor(tokens),
        torch.tensor(owners),
        torch.tensor(shifts),
        tables,
        page,
        idle if padding else None,
        drawn if late else None,
        out,
    )
    assert torch.stack(tuple(found), dim=1).tolist() == [[*row] for row in want]
    if into:
        assert found is out
