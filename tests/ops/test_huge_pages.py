"""Large tensors on a CPU."""

import re
from pathlib import Path

import pytest
import torch

from stoker.ops.huge_pages import HUGE, in_huge_pages, zeros


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("rows", [0, 1, HUGE // 64, HUGE + 1])
def test_zeros_are_zeros(rows, dtype):
    found = zeros((rows, 4, 4), dtype)
    assert torch.equal(found, torch.zeros(rows, 4, 4, dtype=dtype))
    found += 1
    assert found.eq(1).all()


@pytest.mark.parametrize("side", [3, 1000])
def test_a_settled_copy_is_contiguous_and_equal(side):
    x = torch.randn(2, side, side).transpose(1, 2)
    found = in_huge_pages(x)
    assert found.is_contiguous()
    assert torch.equal(found, x)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_is_taken_when_it_is_touched():
    def resident() -> int:
        found = re.search(r"Rss:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
        assert found
        return int(found[1]) * 1024

    before, size = resident(), 256 << 20
    memory = zeros((size,), torch.uint8)
    assert resident() - before < size // 4
    memory[: size // 2] = 1
    assert size // 4 < resident() - before < size * 3 // 4
