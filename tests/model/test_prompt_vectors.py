"""Prompts with vectors in place of tokens, against transformers' `inputs_embeds`."""

import asyncio
import functools
import random

import numpy as np
import pytest
import torch
import zoo
from test_graphs import with_graphs

from stoker import LLM, SamplingParams
from stoker.engine.scheduling.forecast import Forecast
from stoker.errors import InvalidRequestError
from stoker.llm.async_llm import AsyncLLM
from stoker.model.step import StepTensors

COUNT = 10
GREEDY = SamplingParams(temperature=0, max_tokens=COUNT)
MODELS = ["llama", "gemma", "gemma3", "granite", "opt_350m", "gpt2", "qwen3_window"]


@pytest.fixture(scope="module")
def models(save_checkpoint):
    return functools.cache(lambda name: save_checkpoint(name, zoo.make(name)))


@pytest.fixture(scope="module")
def model(models):
    return models("gemma3")


def vectors(checkpoint, count, seed):
    """Vectors as large as the embeddings that layers see."""
    table = checkpoint.model.get_input_embeddings()
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(count, table.weight.shape[1], generator=generator)
    return found * table(torch.arange(50)).std().item()


def ids(count, seed):
    rng = random.Random(seed)
    return [rng.randrange(zoo.VOCAB) for _ in range(count)]


def prompts_of(checkpoint):
    """A prompt of vectors alone, mixed ones, two that begin alike inside a span, a plain one."""
    image = vectors(checkpoint, 23, 1)
    other = torch.cat([image[:18], vectors(checkpoint, 8, 2)])
    return [
        [image],
        [ids(5, 1), image, ids(3, 2)],
        [ids(5, 1), other, ids(3, 2)],
        [ids(5, 1), image[:6], ids(2, 3), vectors(checkpoint, 1, 4), ids(20, 5), other[20:]],
        [ids(30, 6)],
    ]


@torch.inference_mode()
def expected(checkpoint, parts):
    """What transformers makes of a prompt."""
    table = checkpoint.model.get_input_embeddings()
    rows = [table(torch.tensor(part)) if isinstance(part, list) else part for part in parts]
    given = torch.cat([torch.as_tensor(part).float() for part in rows])[None]
    mask = torch.ones(given.shape[:2], dtype=torch.int64)
    out = checkpoint.model.generate(
        inputs_embeds=given, attention_mask=mask, max_new_tokens=COUNT, do_sample=False
    )
    return out[0].tolist()


def asked(parts):
    if len(parts) == 1:
        return {"prompt_embeds": parts[0]} if not isinstance(parts[0], list) else parts[0]
    return {"prompt_parts": parts}


def texts(outputs):
    return [[one.token_ids for one in output.outputs] for output in outputs]


@pytest.mark.parametrize("name", MODELS)
def test_tokens_equal_transformers(name, models, monkeypatch):
    checkpoint = models(name)
    prompts = prompts_of(checkpoint)
    answers = [[expected(checkpoint, parts)] for parts in prompts]
    assert len({tuple(one) for (one,) in answers}) > 3, "the model ignores its prompt"
    for options in (
        {},
        {"max_batch_tokens": 7, "block_size": 4, "overlap": True},
        {"max_batch_tokens": 40, "block_size": 4, "num_blocks": 20},
        {"block_size": 4, "num_blocks": 20, "prefix_cache": False, "overlap": True},
    ):
        with monkeypatch.context() as patch:
            if "num_blocks" in options:  # all are admitted, with few blocks
                patch.setattr(Forecast, "fits", lambda *_: True)
            with LLM(checkpoint.folder, **options) as llm:
                assert texts(llm.generate([asked(one) for one in prompts], GREEDY)) == answers
                llm.engine.scheduler.check()
                if "num_blocks" in options:
                    assert llm.engine.scheduler.num_preemptions > 0


def test_samples_of_a_prompt(model):
    prompts = prompts_of(model)
    with LLM(model.folder, block_size=4, max_batch_tokens=9) as llm:
        params = SamplingParams(n=3, temperature=0, max_tokens=COUNT)
        outputs = llm.generate([asked(one) for one in prompts], params)
    assert texts(outputs) == [[expected(model, one)] * 3 for one in prompts]
    assert outputs[1].prompt_token_ids == [*ids(5, 1), *[-1] * 23, *ids(3, 2)]


def test_equal_vectors_are_found_in_the_cache(model):
    """As far as they are equal, in whole blocks of 4 tokens."""
    image = vectors(model, 23, 1)
    changed = image.clone()
    changed[10, 7] += 1e-6
    assert changed[10, 7] != image[10, 7]
    with LLM(model.folder, block_size=4) as llm:

        def hits(*parts):
            (output,) = llm.generate(asked(parts), GREEDY)
            assert output.outputs[0].token_ids == expected(model, parts)
            return output.num_cached_tokens

        assert hits(ids(5, 1), image, ids(3, 2)) == 0
        assert hits(ids(5, 1), image, ids(3, 2)) == 28  # of 31
        assert hits(ids(5, 1), image.double().numpy(), ids(1, 3)) == 28  # of 29
        assert hits(ids(5, 1), image[:9], image[9:20]) == 24  # of 25
        assert hits(ids(5, 1), changed, ids(3, 2)) == 12  # vector 10 is token 15
        assert hits(image) == 0
        assert hits(ids(4, 9), image) == 0


def test_the_caller_may_change_the_tensor_afterwards(model):
    image = vectors(model, 9, 1)
    answer = expected(model, [image])
    given = image.clone()
    with LLM(model.folder) as llm:
        pieces = llm.session.request(llm.encode_prompt({"prompt_embeds": given}), GREEDY)
        given.zero_()
        (output,) = llm.session.run(lambda: [pieces])
    assert output.outputs[0].token_ids == answer


def test_every_call_takes_vectors(model):
    image = vectors(model, 9, 1)
    prompt = {"prompt_embeds": image.bfloat16().requires_grad_()}
    answer = expected(model, [image.bfloat16().float()])
    with LLM(model.folder) as llm:
        found = [one.outputs[0].token_ids for one in llm.generate_iter(iter([prompt] * 2), GREEDY)]
        assert found == [answer, answer]
        table = model.model.get_input_embeddings()
        as_vectors = llm.embed({"prompt_embeds": table(torch.tensor(ids(6, 1)))})
        as_tokens = llm.embed(ids(6, 1))
        assert as_vectors[0].outputs.embedding == as_tokens[0].outputs.embedding

    async def run():
        face = AsyncLLM(model.folder)
        try:
            return [part async for part in face.generate(prompt, GREEDY, stream=False)]
        finally:
            face.close()

    (output,) = asyncio.run(run())
    assert output.outputs[0].token_ids == answer


def test_streamed(text_model):
    with LLM(text_model) as llm:
        given = torch.randn(9, llm.spec.vector_width, generator=torch.Generator().manual_seed(0))
        prompt = {"prompt_embeds": given}
        pieces = list(llm.stream(prompt, GREEDY))
        (output,) = llm.generate(prompt, GREEDY)
    assert len(pieces) > 1
    assert "".join(pieces) == output.outputs[0].text


def test_penalties_count_tokens_alone(model):
    """A repetition penalty reads the prompt: its tokens, not its vectors."""
    # a prompt whose likeliest next token is in its second half alone
    halves = ((ids(4, seed), ids(40, seed + 1000)) for seed in range(1000))
    first, rest = next(
        (first, rest)
        for first, rest in halves
        if (token := int(model.logits(first + rest)[-1].argmax())) in rest and token not in first
    )
    likeliest = int(model.logits(first + rest)[-1].argmax())
    params = SamplingParams(temperature=0, max_tokens=1, repetition_penalty=100.0)
    given = model.model.get_input_embeddings()(torch.tensor(rest))
    with LLM(model.folder) as llm:
        mixed, plain = llm.generate([asked([first, given]), first + rest], params)
    assert mixed.outputs[0].token_ids == [likeliest]
    assert plain.outputs[0].token_ids != [likeliest]


def test_steps_without_vectors_have_none(model, monkeypatch):
    seen = []
    with LLM(model.folder, block_size=4, max_batch_tokens=8) as llm:
        hidden = llm.engine.runner.model.hidden

        def watched(tensors: StepTensors, *rest):
            rows = 0 if tensors.vectors is None else len(tensors.vectors.rows)
            seen.append((len(tensors.token_ids), rows))
            return hidden(tensors, *rest)

        monkeypatch.setattr(
            type(llm.engine.runner.model), "hidden", lambda _, *rest: watched(*rest)
        )
        llm.generate(asked([ids(3, 1), vectors(model, 6, 1), ids(9, 2)]), GREEDY)
    assert seen[:4] == [(8, 5), (8, 1), (2, 0), (1, 0)]


def test_graphs_run_the_steps_without_vectors(model):
    prompts = prompts_of(model)
    with LLM(model.folder, overlap=True, max_batch_tokens=20, block_size=4) as llm:
        capture = with_graphs(llm)
        llm.engine.runner.draws_there = True
        outputs = llm.generate([asked(one) for one in prompts], GREEDY)
        assert capture.replayed > 3
        assert capture.captured + capture.replayed < llm.engine.stats.steps
    assert texts(outputs) == [[expected(model, one)] for one in prompts]


GOOD = torch.zeros(3, 48)
BAD = [
    ({"prompt_embeds": torch.zeros(3, 47)}, "have a width of 47; the model takes (tokens, 48)"),
    ({"prompt_embeds": torch.zeros(1, 3, 48)}, "shape (tokens, width) with at least one token"),
    ({"prompt_embeds": torch.zeros(48)}, "not (48,)"),
    ({"prompt_embeds": torch.zeros(0, 48)}, "not (0, 48)"),
    ({"prompt_embeds": np.zeros((3, 48), int)}, "must be floating point, not int64"),
    ({"prompt_embeds": torch.zeros(3, 48, dtype=torch.int32)}, "not torch.int32"),
    ({"prompt_embeds": [[0.0] * 48]}, "must be a tensor or an array, not list"),
    ({"prompt_embeds": torch.full((3, 48), float("nan"))}, "NaN or infinity"),
    ({"prompt_embeds": np.full((3, 48), 1e300)}, "beyond float32: vector 0"),
    (
        {"prompt_embeds": GOOD, "prompt_token_ids": [1]},
        "needs one of 'prompt', 'prompt_token_ids', 'prompt_embeds'",
    ),
    ({"prompt_parts": [[1, 2], GOOD[:, :9]]}, "width of 9"),
    ({"prompt_parts": [GOOD, GOOD[:, :9]]}, "a width of 9 and of 48"),
    ({"prompt_parts": [[1, "a"], GOOD]}, "whole numbers"),
    ({"prompt_parts": [GOOD, "a text"]}, "prompt_parts[1] must be a list of token ids"),
    ({"prompt_parts": [[1 << 62], GOOD]}, "token id 4611686018427387904 is out of range"),
    ({"prompt_parts": [[-1], GOOD]}, "token id -1 is out of range"),
    ({"prompt_parts": []}, "the prompt is empty"),
    ({"prompt_parts": GOOD}, "must be a list of token ids and tensors, not Tensor"),
]


def test_bad_prompts_are_refused_by_name(model):
    with LLM(model.folder) as llm:
        for prompt, message in BAD:
            with pytest.raises(InvalidRequestError) as problem:
                llm.generate(prompt, GREEDY)
            assert message in str(problem.value)
        with pytest.raises(InvalidRequestError, match="prompt_logprobs is for prompts of tokens"):
            llm.generate({"prompt_embeds": GOOD}, SamplingParams(prompt_logprobs=1))
        assert texts(llm.generate([[1, 2]], GREEDY))[0][0]
