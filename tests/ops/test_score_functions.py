"""A user's score function: the definition against arithmetic, the implementations against it."""

import pytest
import torch
from layouts import make
from score_functions import alibi, near_and_far

from stoker.ops.attention import ReferenceAttention, Scores
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.attention_native import NativeAttention
from stoker.ops.attention_varlen import VarlenAttention
from stoker.ops.kv_pages import load_blocks
from stoker.ops.native.build import load_kernels

LIBRARY = load_kernels("attention")
CPU = [CpuAttention(), *([NativeAttention(LIBRARY)] if LIBRARY else [])]
SIZES = {"block_size": 4, "heads": 4, "kv_heads": 2, "dim": 16}
FUNCTIONS = [alibi, near_and_far]


def case():
    return make([1, 5, 1, 20], [30, 25, 3, 20], **SIZES)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("softcap", [None, 2.5])
def test_the_definition(function, softcap):
    """Query by query and head by head, with plain numbers for positions and head."""
    layout, q, k, v = case()
    scores = Scores(0.25, None, softcap, modify=function)
    out = ReferenceAttention().run(layout, q, k, v, scores)
    for s, context in enumerate(layout.context_lens):
        keys, values = (load_blocks(cache, layout.block_tables[s])[:context] for cache in (k, v))
        rows = range(layout.query_starts[s], layout.query_starts[s + 1])
        for row in rows:
            query = context - (rows.stop - row)
            for head in range(4):
                x = keys[: query + 1, head // 2] @ q[row, head] * 0.25
                if softcap:
                    x = softcap * torch.tanh(x / softcap)
                x = torch.stack([function(one, query, key, head) for key, one in enumerate(x)])
                expected = x.softmax(0) @ values[: query + 1, head // 2]
                torch.testing.assert_close(out[row, head], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("attention", CPU, ids=lambda one: type(one).__name__)
def test_on_a_cpu(attention, function):
    layout, q, k, v = case()
    scores = Scores(0.25, 12, modify=function)
    expected = ReferenceAttention().run(layout, q, k, v, scores)
    assert not torch.equal(expected, ReferenceAttention().run(layout, q, k, v, Scores(0.25, 12)))
    out = attention.run(attention.plan(layout), q, k, v, scores)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_where_it_has_no_place_it_is_refused():
    layout, q, k, v = case()
    attention = VarlenAttention()
    with pytest.raises(ValueError, match=r"has no place for a score function \(alibi\)"):
        attention.run(attention.plan(layout), q, k, v, Scores(0.25, modify=alibi))
