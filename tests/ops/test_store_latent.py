"""What latent attention stores of tokens: the kernels against the definition."""

import importlib

import pytest
import torch

from stoker.ops.kv_pages import Fp8Pages
from stoker.ops.latent import LatentNorm, NativeStoreLatent, store_latent
from stoker.ops.native.build import load_kernels
from stoker.ops.rope import rope_table
from stoker.ops.triton.available import interpreted

LIBRARY = load_kernels("elementwise")
NATIVE = [NativeStoreLatent(LIBRARY)] if LIBRARY else []
TRITON = [importlib.import_module("stoker.ops.triton.latent").store_latent] if interpreted() else []


@pytest.mark.parametrize("implementation", NATIVE + TRITON)
@pytest.mark.parametrize(("rows", "heads"), [(1, 3), (5, 1), (40, 16)])
@pytest.mark.parametrize(("rank", "plain", "shared", "rotary"), [(20, 6, 8, 8), (16, 5, 10, 4)])
@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_equals_the_definition(implementation, rows, heads, rank, plain, shared, rotary, gain):
    generator = torch.Generator().manual_seed(rows)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    q, kv = random(rows, heads, plain + shared), random(rows, rank + shared)
    norm = LatentNorm(random(rank), 1e-6, gain)
    rope = rope_table(100.0 ** -torch.arange(rotary // 2), 50)[torch.arange(rows) % 50]
    cells = torch.randperm(64, generator=generator)[:rows]
    cells[rows // 2 :: 7] = -1  # padding
    found = []
    for store in (store_latent, implementation):
        pages, query = torch.zeros(4, 16, 1, rank + shared), torch.zeros(rows, heads, rank + shared)
        store(q, kv, norm, rope, cells, pages, query)
        assert (query[..., :rank] == 0).all(), "that is the maps' part"
        found.append((pages, query))
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", TRITON)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quantised_rows_are_the_definition_s(implementation, dtype):
    torch.manual_seed(0)
    q, kv = torch.randn(6, 3, 14).to(dtype), 3 * torch.randn(6, 28).to(dtype)
    norm = LatentNorm(torch.randn(20).to(dtype), 1e-6, 1.5)
    rope, cells = rope_table(torch.rand(4), 6), torch.tensor([5, 0, -1, 9, 3, 12])
    found = []
    for store in (store_latent, implementation):
        data = torch.zeros(2, 8, 1, 28, dtype=torch.float8_e4m3fn)
        query = torch.zeros(6, 3, 28, dtype=dtype)
        store(q, kv, norm, rope, cells, Fp8Pages(data, torch.tensor([0.5])), query)
        found.append((data.float(), query.float()))
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.13, atol=2**-6)  # a step of either type
        assert (ours != expected).float().mean() < 0.02
