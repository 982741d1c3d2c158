"""Layouts and caches that the tests of attention share."""

import dataclasses
import random
from itertools import pairwise

import numpy as np
import torch

from stoker.ops.attention import RaggedLayout


def make(
    shape,
    lens,
    *,
    block_size,
    heads,
    kv_heads,
    dim,
    value_dim=None,
    latent=False,
    seed=0,
    poison=1e4,
):
    """Ragged queries over shuffled blocks: a layout, queries, keys and values, float32.

    Entries of the cache that no sequence holds are `poison`. Values are as wide as keys if there is
    no `value_dim`; `latent` ones are a view of the keys.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    widths = [-(-length // block_size) for length in lens]
    blocks = rng.sample(range(sum(widths) + 3), sum(widths))
    tables = torch.zeros(len(lens), max(widths), dtype=torch.int64)
    for row, width in enumerate(widths):
        tables[row, :width] = torch.tensor([blocks.pop() for _ in range(width)])
    starts = [0]
    for count in shape:
        starts.append(starts[-1] + count)
    cache = [
        torch.randn(sum(widths) + 3, block_size, kv_heads, width, generator=generator)
        for width in (dim, value_dim or dim)
    ]
    held = torch.zeros(sum(widths) + 3, block_size, dtype=torch.bool)
    for row, length in enumerate(lens):
        cells = torch.arange(length)
        held[tables[row, cells // block_size], cells % block_size] = True
    for one in cache:
        one[~held] = poison
    if latent:
        cache[1] = cache[0][..., : value_dim or dim]
    q = torch.randn(starts[-1], heads, dim, generator=generator)
    return RaggedLayout(starts, lens, tables, block_size), q, *cache


def freed(layout, window, *cache):
    """As after the blocks behind the window have gone: in their place stands one full of NaN."""
    size = layout.block_size
    counts = [end - start for start, end in pairwise(layout.query_starts)]
    first = [
        max(0, length - count - window + 1) // size
        for length, count in zip(layout.context_lens, counts, strict=True)
    ]
    tables = layout.block_tables.clone()
    for row, blocks in enumerate(first):
        tables[row, :blocks] = len(cache[0])
    cache = [torch.cat((one, torch.full_like(one[:1], torch.nan))) for one in cache]
    held = np.array(first) * size
    return RaggedLayout(
        layout.query_starts, layout.context_lens, tables, size, held_from=held
    ), *cache


def shared(layout, rows, blocks):
    """`layout` with so many first blocks of `rows` being those of the first of them."""
    tables = layout.block_tables.clone()
    tables[rows, :blocks] = tables[rows[0], :blocks]
    return dataclasses.replace(layout, block_tables=tables)
