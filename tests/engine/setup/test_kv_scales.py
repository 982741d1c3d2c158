"""Scales of keys and values in FP8: found from the model alone, and they keep what e4m3 can't."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SIZES, VOCAB
from transformers import Qwen2Config, Qwen2ForCausalLM

from stoker import LLM, SamplingParams
from stoker.engine.setup.kv_scales import HEADROOM
from stoker.ops.kv_pages import FP8_MOST, Fp8Pages

PROMPT = [(7 * n) % VOCAB for n in range(1, 60)]
SCORED = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)


@pytest.fixture(scope="module")
def extreme(tmp_path_factory):
    """A Qwen2 whose keys lie beyond 448 in one head, and whose values are tiny in the other."""
    folder = tmp_path_factory.mktemp("extreme")
    torch.manual_seed(0)
    Qwen2ForCausalLM(
        Qwen2Config(**{**SIZES, "num_hidden_layers": 2, "initializer_range": 0.1})
    ).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for layer in range(2):
        attention = f"model.layers.{layer}.self_attn"
        weights[f"{attention}.k_proj.bias"][3] = 3000.0  # of head 0
        weights[f"{attention}.q_proj.weight"][[3, 19]] = 0.0  # the queries do not look at it
        weights[f"{attention}.q_proj.weight"][[11, 27]] = 0.0  # nor at what it is rotated with
        weights[f"{attention}.v_proj.weight"][16:] *= 1e-4  # of head 1
        weights[f"{attention}.o_proj.weight"][:, 32:] *= 1e4
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def log_probabilities(folder, **options):
    with LLM(folder, **options) as llm:
        [output] = llm.generate([PROMPT], SCORED)
        entries = [next(iter(entry.values())) for entry in output.prompt_logprobs[1:]]
        return torch.tensor([entry.logprob for entry in entries]), llm.engine.runner.cache


def test_scales_fit_the_model_and_results_stay_near(extreme):
    plain, cache = log_probabilities(extreme)
    quantised, pages = log_probabilities(extreme, kv_dtype="fp8")
    for layer, (keys, values) in zip(cache.layers, pages.layers, strict=True):
        for exact, found in zip(layer, (keys, values), strict=True):
            assert isinstance(found, Fp8Pages)
            most = exact.abs().amax((0, 1, 3))
            assert all(math.frexp(one)[0] == 0.5 for one in found.scale.tolist())
            assert (found.scale * FP8_MOST > most).all()  # other tokens than the sample's
            assert (found.scale * FP8_MOST < 4 * HEADROOM * most).all()
        assert keys.scale[0] > 8
        assert values.scale[1] < 1e-4
    moved = (plain - quantised).abs()
    assert 0 < moved.mean() < 0.05


def test_they_depend_on_nothing_but_the_model(extreme):
    sizes = {"kv_dtype": "fp8", "max_batch_tokens": 7, "block_size": 4, "seed": 5, "num_blocks": 40}
    first, ours = log_probabilities(extreme, kv_dtype="fp8")
    again, theirs = log_probabilities(extreme, **sizes)
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert all(torch.equal(x.scale, y.scale) for x, y in zip(one, other, strict=True))
    assert torch.allclose(first, again, atol=1e-4)
