"""Scales of keys and values in FP8: one for each layer and head, from a fixed sample of tokens.

Keys of some models lie far beyond what e4m3 holds (Qwen2's biases), values of others far below.
The scales follow from the model alone, never from what it is asked, so that a token's keys and
values are the same in any company. Called where an engine is made.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.step_tensors import to_arrays, to_tensors
from stoker.engine.scheduling.step import Step, StepItem
from stoker.model.cache import PagedCache, Scales
from stoker.model.cache_spec import CacheSpec
from stoker.model.transformer import Transformer
from stoker.ops.kv_pages import FP8_MOST
from stoker.ops.rounding import ceil_div

SAMPLE = 512  # tokens
HEADROOM = 4.0  # what is stored may be so many times the largest of the sample
PAGE = 16


@torch.inference_mode()
def kv_scales(model: Transformer, context: int) -> list[Scales | None]:
    """Scales (G,) float32, powers of two, for the keys and the values of each layer.

    None for a layer without.

    The prepared `model` is run once over random tokens, `context` at most, with a cache in its
    own dtype.
    """
    found: list[Scales | None] = []
    for layer, pages in zip(model.spec.layers, run_sample(model, context).layers, strict=True):
        if pages is None or not any(isinstance(one, CacheSpec) for one in layer.cache_specs()):
            found.append(None)
            continue
        keys, values = pages[0], pages[-1]  # latent rows are both
        assert isinstance(keys, Tensor)
        assert isinstance(values, Tensor)
        found.append((_scales(keys), _scales(values)))
    return found


@torch.inference_mode()
def run_sample(model: Transformer, context: int) -> PagedCache:
    """Run the prepared `model` over tokens that are always the same; returns its cache."""
    assert model.ops is not None, "the model must be prepared"
    device, count = model.embedding.device, min(SAMPLE, context)
    tokens = random.Random(0).choices(range(model.spec.vocab), k=count)
    groups = model.spec.cache_groups
    blocks, states = ceil_div(count, PAGE), sum(group.keeps_state for group in groups)
    places = [1 if group.keeps_state else blocks for group in groups]
    cache = PagedCache(model.spec, places, PAGE, model.embedding.dtype, device)
    tables = (tuple(range(blocks)),) * (len(groups) - states)
    step = Step(0, (StepItem(0, 0, 0, tuple(tokens), tables, (0,)),))
    slots = DeviceSlots(1, count, PAGE, device, (0,) * len(tables), num_states=states)
    model.hidden(to_tensors(to_arrays(step, slots), slots, model.ops), cache)
    return cache


def _scales(pages: Tensor) -> Tensor:
    """(G,) for keys or values (blocks, block_size, G, D); 1 where they say nothing."""
    most = pages.float().abs().amax((0, 1, 3))
    exponents = [
        math.ceil(math.log2(one * HEADROOM / FP8_MOST)) if 0 < one < math.inf else 0
        for one in most.tolist()
    ]
    return torch.tensor([2.0**one for one in exponents], device=pages.device)
