"""Every family on a GPU: in float32 the tokens and logits of a CPU, in 16 bits close to them."""

import copy

import pytest
import torch
from test_families import COUNT, generate, keep_logits, worst_difference
from zoo import CONTEXTS, ZOO

from stoker import LLM, SamplingParams
from stoker.ops.attention_varlen import varlen_serves

pytestmark = pytest.mark.gpu
# Graphs are left out where they are not the subject: each engine would capture its own.
SETTINGS = {
    "mixed": {},
    "budget7": {"max_batch_tokens": 7, "block_size": 1, "num_blocks": 2000, "cuda_graphs": False},
    "preempted": {"block_size": 4, "num_blocks": 20, "cuda_graphs": False},
}
MORE = {
    "blocks64": {"block_size": 64, "prefix_cache": False, "cuda_graphs": False},
    "preempted_without_prefix_cache": {
        "block_size": 4,
        "num_blocks": 20,
        "prefix_cache": False,
    },
    "reference": {"attention_backend": "reference"},
    "no_overlap": {"overlap": False, "max_batch_tokens": 20},
}
# sizes of heads, windows, caps, norms, positions and residuals of all kinds
SOME = ["qwen3_window", "gemma2", "cohere_qk_norm", "phi4_mini", "gpt2", "opt_350m"]
CASES = [(name, setting) for name in ZOO for setting in SETTINGS]
CASES += [(name, setting) for name in SOME for setting in MORE]
# What transformers loses in the same dtype, at most so many times, is taken as rounding. Both are
# compared with float32; FP8 pages lose more than any 16-bit arithmetic.
ALLOWED = 2.0


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_tokens_and_logits_equal_those_of_a_cpu(device, name, setting, zoo, short_prompts):
    model, options = zoo(name), {**SETTINGS, **MORE}[setting]
    with LLM(
        model.folder, device=device, dtype="float32", max_context=CONTEXTS.get(name), **options
    ) as llm:
        seen = keep_logits(llm)
        tokens = generate(llm, short_prompts)
        if setting.startswith("preempted"):
            assert llm.engine.scheduler.num_preemptions > 0
    assert tokens == [[model.greedy(prompt, COUNT)] for prompt in short_prompts]
    assert 0 < worst_difference(seen, model) < 1e-3


@pytest.mark.parametrize("name", SOME)
def test_three_samples(device, name, zoo, short_prompts):
    model = zoo(name)
    with LLM(model.folder, device=device, dtype="float32", max_context=CONTEXTS.get(name)) as llm:
        tokens = generate(llm, short_prompts, n=3)
    assert tokens == [[model.greedy(prompt, COUNT)] * 3 for prompt in short_prompts]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["triton", "varlen", "reference"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3_window", "gemma3", "cohere_qk_norm"])
def test_16_bits_lose_no_more_than_transformers(device, dtype, backend, name, zoo, short_prompts):
    kind = getattr(torch, dtype)
    if backend == "varlen" and not varlen_serves(torch.device(device), kind):
        pytest.skip("this PyTorch's varlen_attn reads no pages here")
    model = zoo(name)
    # prompts with their continuations, so that each row is one of the same text
    prompts = [[*prompt, *model.greedy(prompt, COUNT)] for prompt in short_prompts]
    exact = torch.stack([model.logits(prompt)[-1] for prompt in prompts])
    theirs = _transformers(model.model, kind, device, prompts)
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    with LLM(model.folder, device=device, dtype=dtype, attention_backend=backend) as llm:
        seen = keep_logits(llm)
        llm.generate(prompts, params)
    ours = torch.stack([seen[tuple(prompt), len(prompt)] for prompt in prompts])
    assert ours.dtype == kind
    errors = [(found.float() - exact).abs() for found in (ours, theirs)]
    assert errors[0].mean() <= ALLOWED * errors[1].mean()
    assert errors[0].max() <= ALLOWED * errors[1].max()


def _transformers(model, kind, device, prompts):
    """The last logits (prompts, V) of transformers' model in `kind`."""
    model = copy.deepcopy(model).to(device, kind)
    with torch.inference_mode():
        ids = [torch.tensor([prompt], device=device) for prompt in prompts]
        return torch.stack([model(one).logits[0, -1].cpu() for one in ids])
