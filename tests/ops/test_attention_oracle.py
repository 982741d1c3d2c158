"""Every attention there is against one softmax in float64, over random shapes and prefixes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import make
from test_triton_attention import DEVICE, SMALL, on_device

from stoker.ops.attention import RaggedLayout, ReferenceAttention, Scores
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.attention_native import NativeAttention
from stoker.ops.attention_varlen import VarlenAttention, varlen_serves
from stoker.ops.native.build import load_kernels
from stoker.ops.triton.attention import TritonAttention
from stoker.ops.triton.available import triton_serves

LIBRARY = load_kernels("attention")


def softmax_attention(layout, q, k, v, scores):
    """Each query and head by itself, in float64: out (T, H, D) and log-sum-exp (T, H)."""
    q, k, v = (x.double().cpu() for x in (q, k, v))
    group, size = q.shape[1] // k.shape[2], layout.block_size
    out = torch.zeros(*q.shape[:2], v.shape[3], dtype=torch.float64)
    lse = torch.zeros(q.shape[:2], dtype=torch.float64)
    for s, context in enumerate(layout.context_lens):
        rows = range(*layout.query_starts[s : s + 2])
        for row, position in zip(rows, range(context - len(rows), context), strict=True):
            first = 0 if scores.window is None else max(0, position - scores.window + 1)
            if scores.chunked:
                first = position // scores.window * scores.window
            keys = torch.arange(first, position + 1)
            cells = layout.block_tables[s].cpu()[keys // size], keys % size
            for head in range(q.shape[1]):
                x = k[*cells, head // group] @ q[row, head] * scores.scale
                if scores.softcap:
                    x = scores.softcap * torch.tanh(x / scores.softcap)
                if scores.slopes is not None:
                    x = x + scores.slopes[head].double().cpu() * (keys - position)
                if scores.sinks is not None:
                    x = torch.cat((x, scores.sinks[head : head + 1].double().cpu()))
                lse[row, head] = x.logsumexp(0)
                out[row, head] = x.softmax(0)[: len(keys)] @ v[*cells, head // group]
    return out, lse


@st.composite
def cases(draw, longest, dims):
    """Sequences with a chunk or a decode each, grouped heads, and the options of scores.

    Values are as wide as keys or not, or they are the beginnings of the keys of one head. A
    sequence may begin with blocks of another, that one with blocks of a third.
    """
    lens = draw(st.lists(st.integers(1, longest), min_size=1, max_size=5))
    counts = [draw(st.sampled_from([1, min(3, n), n])) for n in lens]
    latent = draw(st.booleans())
    kv_heads = 1 if latent else draw(st.sampled_from([1, 2, 3]))
    group = draw(st.sampled_from([1, 2, 5, 19]))
    dim = draw(st.sampled_from(dims))
    widths = [None, *(width for width in dims if width < dim or not latent)]
    layout, *tensors = make(
        counts, lens,
        block_size=draw(st.sampled_from([1, 4, 16])), heads=kv_heads * group, kv_heads=kv_heads,
        dim=dim, value_dim=draw(st.sampled_from(widths)), latent=latent,
        seed=draw(st.integers(0, 99)),
    )  # fmt: skip
    tables = layout.block_tables.clone()
    for s in range(1, len(lens)):
        other = draw(st.integers(0, s - 1))
        most = (min(lens[s], lens[other]) - 1) // layout.block_size
        shared = draw(st.integers(0, most))
        tables[s, :shared] = tables[other, :shared]
    layout = RaggedLayout(layout.query_starts, lens, tables, layout.block_size)
    sinks = torch.linspace(-3, 3, kv_heads * group) if draw(st.booleans()) else None
    window = draw(st.sampled_from([None, 1, 6, 30]))
    softcap = draw(st.sampled_from([None, 2.5]))
    chunked = window is not None and draw(st.booleans())
    slopes = torch.linspace(0.02, 0.5, kv_heads * group) if draw(st.booleans()) else None
    scale = draw(st.sampled_from([0.1, 0.5]))
    return layout, *tensors, Scores(scale, window, softcap, sinks, None, chunked, slopes)


def check(attention, layout, q, k, v, scores, bound):
    expected, expected_lse = softmax_attention(layout, q, k, v, scores)
    plan = attention.plan(layout)
    out, lse = attention.run_with_lse(plan, q, k, v, scores)
    again = attention.run(plan, q, k, v, scores)
    for one in (out, again):
        torch.testing.assert_close(one.double().cpu(), expected, rtol=bound, atol=bound)
    torch.testing.assert_close(lse.double().cpu(), expected_lse, rtol=bound, atol=bound)


HERE = {
    "reference": ReferenceAttention(),
    "torch": CpuAttention(),
    **({"native": NativeAttention(LIBRARY)} if LIBRARY else {}),
}


@pytest.mark.parametrize("name", HERE)
@settings(max_examples=40, deadline=None)
@given(case=cases(60, [3, 16, 20, 64]))
def test_on_a_cpu(name, case):
    check(HERE[name], *case, 2e-5)


@pytest.mark.skipif(not triton_serves(DEVICE.type), reason="Triton is not installed")
@settings(max_examples=6, deadline=None)
@given(case=cases(40, [16, 20, 64]))
def test_triton(case):
    layout, q, k, v, scores = case
    layout, q, k, v = on_device(layout, q, k, v)
    sinks, slopes = (None if x is None else x.to(DEVICE) for x in (scores.sinks, scores.slopes))
    scores = replace(scores, sinks=sinks, slopes=slopes)
    check(TritonAttention(DEVICE, SMALL), layout, q, k, v, scores, 2e-5)


@pytest.mark.gpu
@settings(max_examples=40, deadline=None)
@given(case=cases(60, [64, 128]))
def test_varlen(case):
    """In bf16, as its kernels want, and without what they lack."""
    if not varlen_serves(DEVICE, torch.bfloat16):
        pytest.skip("varlen does not serve here")
    layout, q, k, v, scores = case
    layout, q, k, v = on_device(layout, *(x.bfloat16() for x in (q, k, v)))
    sinks = None if scores.sinks is None else scores.sinks.to(DEVICE)
    scores = Scores(scores.scale, scores.window, None, sinks)
    check(VarlenAttention(), layout, q, k, v, scores, 2e-2)
