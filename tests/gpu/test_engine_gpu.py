"""The engine on a GPU: with overlap and graphs or without, the tokens of the CPU."""

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.engine.setup.budget import GIB

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
COUNT = 24
STOPS = SamplingParams(temperature=0, max_tokens=COUNT, stop_token_ids=[10**6])


@pytest.mark.parametrize("graphs", [False, "auto"])
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(
    "setting", [{}, {"num_blocks": 12}, {"max_batch_tokens": 7}, {"prefix_cache": False}]
)
def test_greedy_tokens_equal_transformers(overlap, graphs, setting, checkpoint, prompts):
    model = checkpoint("qwen3")
    options = {"device": "cuda", "dtype": "float32", "overlap": overlap, "cuda_graphs": graphs}
    with LLM(model.folder, **options, **setting) as llm:
        if "num_blocks" in setting:
            llm.engine.scheduler.lengths.observe(1)
        outputs = llm.generate(prompts, STOPS)
    found = [output.outputs[0].token_ids for output in outputs]
    assert found == [model.greedy(prompt, COUNT) for prompt in prompts]


def test_sampled_tokens_are_those_of_the_plain_loop(checkpoint, prompts):
    params = [
        SamplingParams(temperature=0.8, top_k=20 * (n % 2), top_p=0.9, seed=n, max_tokens=COUNT)
        for n in range(len(prompts))
    ]

    def run(**options):
        with LLM(checkpoint("llama").folder, device="cuda", dtype="float32", **options) as llm:
            return [one.outputs for one in llm.generate(prompts, params)]

    assert run(overlap=True) == run(overlap=False, cuda_graphs=False)


def test_draws_under_controls_are_those_of_the_plain_loop(checkpoint, prompts):
    kinds = [
        {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
        {"logit_bias": {5: 2.0}, "logprobs": 3},
        {"bad_words": [[5, 6], [7]], "min_tokens": 6, "stop_token_ids": range(40)},
        {"allowed_token_ids": range(50, 90), "min_p": 0.05},
        {"typical_p": 0.8, "top_k": 30},
        {"logits_processors": [lambda outputs, logits: logits * 1.5]},
        {},
    ]
    params = [
        SamplingParams(temperature=0.8, seed=n, max_tokens=COUNT, **kinds[n % len(kinds)])
        for n in range(len(prompts))
    ]

    def run(**options):
        with LLM(checkpoint("llama").folder, device="cuda", dtype="float32", **options) as llm:
            outputs = [one.outputs for one in llm.generate(prompts, params)]
            return [[(one.token_ids, one.finish_reason) for one in some] for some in outputs]

    assert run(overlap=True) == run(overlap=False, cuda_graphs=False)


def test_the_budget_holds(checkpoint, prompts):
    with LLM(checkpoint("qwen3").folder, device="cuda", gpu_memory=0.5, max_running=64) as llm:
        needs = llm.budget.needs
        llm.generate(prompts, STOPS)
        free, total = torch.cuda.mem_get_info()
        assert total - free <= 0.5 * total + GIB, "an allowance for what the driver keeps"
        assert needs.weights < GIB
        assert needs.activations > 0
        graphs = llm.engine.runner.graphs
        if graphs is not None:
            assert sum(graphs.memory.values()) <= needs.graphs


def test_out_of_memory_while_a_step_is_under_way(checkpoint, prompts, monkeypatch):
    model = checkpoint("qwen3")
    with LLM(model.folder, device="cuda", dtype="float32", overlap=True) as llm:
        runner, count = llm.engine.runner, 0
        launch = runner.launch

        def fails(step, *rest):
            nonlocal count
            count += 1
            if count in (4, 9) and step.num_tokens > 1:
                torch.empty(1 << 50, device="cuda")  # a genuine error of the allocator
            return launch(step, *rest)

        monkeypatch.setattr(runner, "launch", fails)
        outputs = llm.generate(prompts, STOPS)
        assert llm.engine.stats.out_of_memory == 2
    found = [output.outputs[0].token_ids for output in outputs]
    assert found == [model.greedy(prompt, COUNT) for prompt in prompts]
