"""Keys and values in FP8: how far results move, and whether one key among many is still found."""

import numpy as np
import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.ops.attention import RaggedLayout, ReferenceAttention, Scores
from stoker.ops.kv_pages import Fp8Pages, quantise
from stoker.ops.triton.attention import TritonAttention
from stoker.ops.triton.available import triton_serves

pytestmark = pytest.mark.gpu
HEADS, KV_HEADS, DIM, PAGE = 8, 2, 128, 16
TEXT = "Once upon a time there was a little girl who lived in a house by the sea. " * 6


def test_log_probabilities_move_little(device):
    """Of a trained model's own text, against the cache in the dtype of the arithmetic."""
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    found = []
    for kv_dtype in ("auto", "fp8"):
        options = {"attention_backend": "reference"} if device == "cpu" else {}
        with LLM(device=device, dtype="bfloat16", kv_dtype=kv_dtype, **options) as llm:
            (output,) = llm.generate([TEXT], params)
        entries = [next(iter(entry.values())) for entry in output.prompt_logprobs[1:]]
        found.append(torch.tensor([entry.logprob for entry in entries]))
    moved = (found[0] - found[1]).abs()
    assert 0 < moved.mean() < 0.1
    assert abs(found[0].mean() - found[1].mean()) < 0.03


@pytest.mark.parametrize("queries", [1, 5])
def test_a_needle_is_recalled(device, queries):
    """Each sequence has a key that its last query points at, at a depth of its own; the output is
    that key's value and nobody else's. Sums that lose bits over many keys would blur it."""
    if not triton_serves(device):
        pytest.skip("Triton is not installed")
    context, count = (32768, 16) if device == "cuda" else (200, 3)
    torch.manual_seed(0)
    blocks = -(-context // PAGE)
    order = torch.from_numpy(np.random.default_rng(0).permutation(count * blocks))
    tables = order.view(count, blocks).to(device)
    shape = (count * blocks, PAGE, KV_HEADS, DIM)
    k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2))
    q = torch.randn(count * queries, HEADS, DIM, device=device, dtype=torch.bfloat16)
    depths = [(1 + 2 * s) * context // (2 * count + 1) for s in range(count)]
    needles = torch.stack([v[tables[s, d // PAGE], d % PAGE] for s, d in enumerate(depths)])
    for s, depth in enumerate(depths):
        key = k[tables[s, depth // PAGE], depth % PAGE]  # (G, D)
        # a score of 2 * |key|^2 / sqrt(D), about 22; of others, normal with 2
        q[(s + 1) * queries - 1] = (2 * key).repeat_interleave(HEADS // KV_HEADS, dim=0)
    one = torch.ones(KV_HEADS, device=device)
    layout = RaggedLayout(
        [queries * s for s in range(count + 1)],
        [context] * count,
        tables,
        PAGE,
        tables.cpu().numpy(),
    )
    pages = [Fp8Pages(quantise(x, one), one) for x in (k, v)]
    attention = TritonAttention(torch.device(device))
    out = attention.run(attention.plan(layout), q, *pages, Scores(DIM**-0.5))
    last = out[queries - 1 :: queries].float().view(count, KV_HEADS, -1, DIM)
    for group in range(KV_HEADS):
        values = needles[:, group].float()
        for head in range(HEADS // KV_HEADS):
            near = torch.nn.functional.cosine_similarity(
                last[:, group, head, None], values[None], dim=-1
            )
            assert near.argmax(dim=1).tolist() == list(range(count))
            assert near.diagonal().min() > 0.95
    some = slice(0, queries)
    short = RaggedLayout([0, queries], [context], tables[:1], PAGE)
    exact = ReferenceAttention().run(short, q[some], *pages, Scores(DIM**-0.5))
    torch.testing.assert_close(out[some], exact, rtol=2e-2, atol=2e-2)
