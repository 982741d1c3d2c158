"""A long prompt goes through in chunks, with the activations of one chunk."""

import random

import pytest
import torch
from tensor_memory import TensorMemory
from tiny import VOCAB

from stoker import LLM, SamplingParams
from stoker.ops.activation import activate
from stoker.ops.linear import prepare_gated, prepare_linear
from stoker.ops.native.build import load_kernels

BUDGET, LENGTH = 24, 60
native = pytest.mark.skipif(load_kernels("attention") is None, reason="no C compiler")


def activation_memory(folder, length, **options):
    """Most bytes of floating-point tensors at once, beside weights and cache."""
    rng = random.Random(length)
    prompt = [rng.randrange(VOCAB) for _ in range(length)]
    with LLM(folder, num_blocks=40, **options) as llm:
        llm.generate([prompt[:3]], SamplingParams(max_tokens=2))
        memory = TensorMemory(lambda x: x.is_floating_point())
        with memory:
            llm.generate([prompt], SamplingParams(temperature=0, max_tokens=2))
    return memory.peak


@native
def test_the_peak_of_a_prompt_is_that_of_one_eight_times_as_long(checkpoint):
    folder = checkpoint("qwen3").folder
    chunked = [activation_memory(folder, n, max_batch_tokens=BUDGET) for n in (LENGTH, 8 * LENGTH)]
    one_shot = activation_memory(folder, 8 * LENGTH, max_batch_tokens=8 * LENGTH)
    assert chunked[0] == chunked[1]
    assert one_shot > 8 * chunked[1]


@native
@pytest.mark.parametrize("rows", [1, 5, 14, 33])
def test_a_network_in_pieces_of_rows_gives_the_same_bits(rows):
    torch.manual_seed(0)
    hidden, inner = 64, 96
    fused = prepare_gated(torch.randn(2 * inner, hidden), None, "silu")
    up, down = (
        prepare_linear(torch.randn(shape), None) for shape in ((2 * inner, hidden), (hidden, inner))
    )
    x, residual = torch.randn(2, 50, hidden)
    for inside in (fused, lambda x: activate(up(x), "silu", True)):

        def network(x, residual, inside=inside):
            return down(inside(x), residual.clone())

        whole = network(x, residual)
        pieces = [network(*pair) for pair in zip(x.split(rows), residual.split(rows), strict=True)]
        assert torch.equal(torch.cat(pieces), whole)
