"""Memory of a GPU: running out of it, giving it back, and settings that can't be met."""

import gc

import pytest
import torch
from tiny import SIZES, VOCAB
from transformers import Qwen3Config, Qwen3ForCausalLM

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError

pytestmark = pytest.mark.gpu
COUNT = 8
GREEDY = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
MIB = 1 << 20


@pytest.fixture(scope="module")
def wide(save_checkpoint):
    """A small model whose steps take much memory: 64 KiB a token between its projections."""
    torch.manual_seed(0)
    sizes = {
        **SIZES,
        "num_hidden_layers": 2,
        "intermediate_size": 8192,
        "initializer_range": 0.1,
    }
    return save_checkpoint("wide", Qwen3ForCausalLM(Qwen3Config(**sizes))).folder


@pytest.fixture(scope="module")
def long_prompts(device):
    generator = torch.Generator().manual_seed(0)
    size = (48, 400) if device == "cuda" else (4, 40)
    return torch.randint(0, VOCAB, size, generator=generator).tolist()


def tokens(llm, prompts):
    return [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)]


def held():
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def test_without_room_results_are_the_same(device, wide, long_prompts):
    options = {"device": device, "dtype": "float32", "num_blocks": 2000, "cuda_graphs": False}
    with LLM(wide, max_batch_tokens=16384, **options) as llm:
        expected = tokens(llm, long_prompts)
        assert llm.engine.stats.out_of_memory == 0
    before = held() if device == "cuda" else 0
    with LLM(wide, max_batch_tokens=16384, **options) as llm:
        ballast = None
        if device == "cuda":
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info()[0]
            ballast = torch.empty(free - 300 * MIB, dtype=torch.uint8, device=device)
        assert tokens(llm, long_prompts) == expected
        assert llm.engine.stats.out_of_memory > 0 or device == "cpu"
        llm.engine.scheduler.check()
        assert llm.engine.scheduler.pool.held == 0
        del ballast
    if device == "cuda":
        assert held() <= before + MIB


def test_closing_gives_everything_back(gpu, wide, long_prompts):
    before = held()
    for _ in range(3):
        with LLM(wide, device=gpu, dtype="bfloat16", max_batch_tokens=2048) as llm:
            tokens(llm, long_prompts[:4])
        assert held() <= before + MIB
    free, total = torch.cuda.mem_get_info()
    assert total - free < torch.cuda.memory_allocated() + 4096 * MIB, "graphs keep their memory"


def test_a_model_that_does_not_fit_says_by_how_much(gpu, wide):
    with pytest.raises(ConfigError, match=r"does not fit on the GPU: .* GiB are missing.*weights"):
        LLM(wide, device=gpu, gpu_memory=0.001)


def test_a_second_engine_is_told_of_the_first(gpu, wide):
    total = torch.cuda.mem_get_info()[1]
    with LLM(wide, device=gpu, cache_memory=None, num_blocks=100) as first:
        ballast = torch.empty(int(total * 0.5), dtype=torch.uint8, device=gpu)
        with pytest.raises(ConfigError, match=r"less held by others, which have [\d.]+ GiB"):
            LLM(wide, device=gpu, gpu_memory=0.4)
        del ballast
        assert tokens(first, [[1, 2, 3]])
        with LLM(wide, device=gpu, gpu_memory=0.9) as second:
            assert tokens(second, [[1, 2, 3]]) == tokens(first, [[1, 2, 3]])


def test_a_gpu_too_old_for_fp8_is_refused(gpu, wide, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    with pytest.raises(ConfigError, match=r"fp8 needs .*8\.9.*this GPU is .*use bfloat16"):
        LLM(wide, device=gpu, dtype="fp8")


def test_a_gpu_that_is_not_there(gpu, wide):
    with pytest.raises(ConfigError, match=r"'cuda:77' is not there; this machine has \d+ GPU"):
        LLM(wide, device="cuda:77")
