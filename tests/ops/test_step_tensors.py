"""What the tokens of a step need, from the definition written out, and by the kernel."""

import importlib.util

import pytest
import torch

from stoker.ops.step_tensors import FlatStep, PageTables, TokenInputs, make_inputs

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
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("into", [True, False])
@pytest.mark.parametrize("padding", [9, 0])
def test_inputs(name, page, last, into, padding):
    generator = torch.Generator().manual_seed(page)
    counts, starts = [1, 300, 1, 17, 0, 5], [900, 3, 0, 64, 0, 31]
    idle = 77
    tables = torch.randperm(6000, generator=generator)[: 6 * 1000].view(6, 1000)[:, :999]
    last_tokens = torch.randint(1000, (11,), generator=generator)
    slots = torch.randperm(11, generator=generator)[:6]
    tokens, owners, want = [], [], []
    for owner, (count, start) in enumerate(zip(counts, starts, strict=True)):
        for position in range(start, start + count):
            asks = last and position == start + count - 1
            tokens.append(-1 if asks else len(tokens) + 5)
            owners.append(owner)
            cell = int(tables[owner, position // page]) * page + position % page
            token = int(last_tokens[slots[owner]]) if asks else tokens[-1]
            want.append((token, position, cell))
    shifts, at = [], 0
    for count, start in zip(counts, starts, strict=True):
        shifts.append(start - at)
        at += count
    for place in range(at, at + padding):
        tokens.append(0)
        owners.append(-1)
        want.append((0, 0, idle * page + place % page))
    out = TokenInputs(*torch.full((3, len(tokens)), -5).unbind()) if into else None
    found = implementation(name)(
        FlatStep(*map(torch.tensor, (tokens, owners, shifts)), slots),
        PageTables(tables, page, idle if padding else None),
        last_tokens if last else None,
        out,
    )
    assert torch.stack(tuple(found), dim=1).tolist() == [[*row] for row in want]
    if into:
        assert found is out


@pytest.mark.parametrize("name", NAMES)
def test_the_example(name):
    """The one at the head of step_tensors.py."""
    flat = ([11, 12, 13, -1], [0, 0, 0, 1], [3, 6], [2, 0])
    found = implementation(name)(
        FlatStep(*map(torch.tensor, flat)),
        PageTables(torch.tensor([[8, 3, 0], [6, 1, 5]]), 4),
        torch.tensor([70, 71, 72]),
    )
    assert found.tokens.tolist() == [11, 12, 13, 70]
    assert found.positions.tolist() == [3, 4, 5, 9]
    assert found.cells.tolist() == [35, 12, 13, 21]
