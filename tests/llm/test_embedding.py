"""Embeddings are those of transformers, however work is scheduled; every misuse is refused."""

import asyncio
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from stoker import LLM, AsyncLLM, SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.forecast import Forecast
from stoker.errors import InvalidRequestError, ModelError
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.native.build import load_kernels
from stoker.ops.select import Operations

GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
LONGER = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
POOLINGS = ("last", "mean", "cls")
BARE = {"llama_bare": (LlamaConfig, LlamaModel), "qwen3_bare": (Qwen3Config, Qwen3Model)}
same_bits = pytest.mark.skipif(load_kernels("attention") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def backbone(checkpoint, tmp_path_factory):
    """A function from a name to (folder, the backbone that transformers has of it)."""
    made = {}

    def get(name):
        if name in BARE and name not in made:
            config, model = BARE[name]
            torch.manual_seed(1)
            one = model(
                config(
                    vocab_size=300,
                    hidden_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=16,
                    intermediate_size=96,
                    max_position_embeddings=512,
                    initializer_range=0.2,
                )
            ).eval()
            folder = tmp_path_factory.mktemp(name)
            one.save_pretrained(folder)
            made[name] = str(folder), one
        elif name not in made:
            made[name] = checkpoint(name).folder, checkpoint(name).model.model
        return made[name]

    return get


@torch.inference_mode()
def pooled(model, prompt, pooling, normalize=True):
    states = model(torch.tensor([prompt])).last_hidden_state[0]
    vector = {"last": states[-1], "cls": states[0], "mean": states.mean(0)}[pooling]
    return F.normalize(vector, dim=0) if normalize else vector


def vectors(outputs):
    return torch.tensor([output.outputs.embedding for output in outputs])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3_window", "llama_bare", "qwen3_bare"])
def test_embeddings_equal_transformers(name, pooling, backbone, prompts):
    folder, model = backbone(name)
    for normalize in (True, False):
        with LLM(folder, max_batch_tokens=50) as llm:
            found = vectors(llm.embed(prompts, pooling=pooling, normalize=normalize))
        expected = torch.stack([pooled(model, one, pooling, normalize) for one in prompts])
        assert (found - expected).abs().max() < 1e-4
        assert not normalize or torch.allclose(found.norm(dim=1), torch.ones(len(prompts)))


SETTINGS = {
    "budget7": {"max_batch_tokens": 7},
    "block1": {"block_size": 1, "num_blocks": 4000},
    "no_prefix_cache": {"prefix_cache": False},
    "prefix_policy": {"policy": "prefix", "max_running": 5},
    "small_cache": {"num_blocks": 5},
}


@same_bits
@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_have_the_same_bits_however_work_is_scheduled(pooling, backbone, prompts):
    folder, _ = backbone("qwen3")

    def run(chosen, **options):
        with LLM(folder, **options) as llm:
            found = [one.outputs.embedding for one in llm.embed(chosen, pooling=pooling)]
            assert llm.engine.scheduler.pool.held == 0
            llm.engine.scheduler.check()
        return found

    together = run(prompts)
    for options in SETTINGS.values():
        assert run(prompts, **options) == together
    for number in range(0, len(prompts), 5):
        assert run([prompts[number]]) == [together[number]]


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_preempted_prompts_start_again(pooling, prefix_cache, backbone, prompts, monkeypatch):
    """All are admitted at once into a cache that holds a few of them, completions among them."""
    folder, _ = backbone("qwen3")
    with LLM(folder) as llm:
        expected = llm.embed(prompts, pooling=pooling)
        texts = [one.outputs[0].token_ids for one in llm.generate(prompts[:3], LONGER)]
    monkeypatch.setattr(Forecast, "fits", lambda self, seq, matched: True)
    monkeypatch.setattr(Forecast, "accept", lambda self: None)
    options = {"num_blocks": 12, "max_batch_tokens": 40, "prefix_cache": prefix_cache}
    with LLM(folder, **options) as llm:
        scheduler = llm.engine.scheduler
        for number, prompt in enumerate(prompts[:3]):
            llm.engine.add(Request(str(number), tuple(prompt), LONGER))
        found = llm.embed(prompts, pooling=pooling)
        assert scheduler.num_preemptions > 0
        while llm.engine.has_work:
            llm.session.step()
            scheduler.check()
        assert scheduler.pool.held == 0
        again = [llm.session.arrived.pop(name).outputs[0].token_ids for name in "012"]
    assert again == texts
    assert torch.allclose(vectors(found), vectors(expected), atol=1e-5)
    if load_kernels("attention") is not None:
        assert [one.outputs for one in found] == [one.outputs for one in expected]


def test_a_prompt_that_is_cached_whole(backbone):
    folder, model = backbone("qwen3")
    prompt = [number % 290 for number in range(48)]
    with LLM(folder, block_size=16) as llm:
        for pooling, cached in (("last", 32), ("mean", 0), ("cls", 0), ("last", 32)):
            llm.generate([prompt], GREEDY)  # all three blocks are in the cache
            (output,) = llm.embed([prompt], pooling=pooling)
            assert output.num_cached_tokens == cached
            found = torch.tensor(output.outputs.embedding)
            assert (found - pooled(model, prompt, pooling)).abs().max() < 1e-5


@pytest.mark.parametrize("pooling", POOLINGS)
def test_plain_operations_give_the_same(pooling, backbone, prompts):
    """Where no C compiler is at hand, PyTorch's own operations serve."""
    folder, model = backbone("qwen3")
    with LLM(folder, max_batch_tokens=50) as llm:
        llm.engine.runner.model.ops = Operations(CpuAttention())
        found = vectors(llm.embed(prompts, pooling=pooling))
    expected = torch.stack([pooled(model, one, pooling) for one in prompts])
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooled_prompts_leave_blocks_that_others_reuse(pooling, backbone, checkpoint):
    folder, _ = backbone("qwen3")
    prompt = [number % 290 for number in range(48)]
    with LLM(folder, block_size=16) as llm:
        llm.embed([prompt], pooling=pooling)
        assert llm.engine.scheduler.pool.held == 0
        (output,) = llm.generate([prompt], GREEDY)
        assert output.num_cached_tokens == 32
        assert output.outputs[0].token_ids == checkpoint("qwen3").greedy(prompt, 5)


def test_embeddings_and_completions_share_steps(backbone, checkpoint, prompts):
    folder, model = backbone("qwen3")
    with LLM(folder, max_batch_tokens=40) as llm:
        for number, prompt in enumerate(prompts[:5]):
            llm.engine.add(Request(str(number), tuple(prompt), LONGER))
        found = vectors(llm.embed(prompts, pooling="mean"))
        outputs = [llm.session.arrived.pop(name) for name in "01234"]
    expected = torch.stack([pooled(model, one, "mean") for one in prompts])
    assert (found - expected).abs().max() < 1e-5
    tokens = [output.outputs[0].token_ids for output in outputs]
    assert tokens == [checkpoint("qwen3").greedy(prompt, 20) for prompt in prompts[:5]]


def test_an_interrupted_or_cancelled_call_leaves_nothing(backbone, prompts, monkeypatch):
    folder, _ = backbone("qwen3")
    with LLM(folder, max_batch_tokens=7) as llm:
        expected = llm.embed(prompts[:3], pooling="mean")
        runner, calls = llm.engine.runner, []
        launch = runner.launch

        def interrupt(*args):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return launch(*args)

        monkeypatch.setattr(runner, "launch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.embed(prompts, pooling="mean")
        monkeypatch.undo()
        assert not llm.engine.has_work
        assert llm.engine.scheduler.pool.held == 0
        again = llm.embed(prompts[:3], pooling="mean")
        assert [one.outputs for one in again] == [one.outputs for one in expected]


def test_half_precision(backbone, prompts):
    folder, model = backbone("qwen3")
    with LLM(folder, dtype="bfloat16") as llm:
        for pooling in POOLINGS:
            found = vectors(llm.embed(prompts[:8], pooling=pooling))
            expected = torch.stack([pooled(model, one, pooling) for one in prompts[:8]])
            assert F.cosine_similarity(found, expected).min() > 0.99


def test_forms_of_prompts_and_results(text_model):
    with LLM(text_model) as llm:
        ids = llm.text.encode("hello")
        forms = ["hello", {"prompt": "hello"}, ids, {"prompt_token_ids": ids}]
        outputs = llm.embed(forms)
        assert len({tuple(one.outputs.embedding) for one in outputs}) == 1
        assert outputs[0].prompt == "hello"
        assert outputs[0].prompt_token_ids == ids
        assert outputs[0].finished
        assert len(llm.embed("hello")) == 1


def test_cosine_similarity_of_pairs(text_model):
    with LLM(text_model) as llm:
        same, other = llm.score(["hello", "there"], ["hello", "world"])
        assert same.outputs.score == pytest.approx(1)
        a, b = (torch.tensor(one.outputs.embedding) for one in llm.embed(["there", "world"]))
        assert other.outputs.score == pytest.approx(float(a @ b), abs=1e-6)
        first, second = llm.score("there", ["there", "world"])
        assert first.outputs.score == pytest.approx(1)
        assert second.outputs.score == pytest.approx(other.outputs.score)
        assert second.prompt_token_ids == llm.text.encode("there") + llm.text.encode("world")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda llm: llm.embed(""), "prompt is empty"),
        (lambda llm: llm.embed([[]]), "prompt 0: the prompt is empty"),
        (lambda llm: llm.embed([[1] * 513]), "has 513 tokens and the context is 512; shorten it"),
        (lambda llm: llm.embed([[1, 300]]), "token id 300 is out of range"),
        (lambda llm: llm.embed("a", pooling="lest"), "'lest' is not known; did you mean 'last'"),
        (lambda llm: llm.embed("a", pooling="max"), "known: cls, last, mean"),
        (lambda llm: llm.embed("a", normalize=2), "normalize must be True or False, not 2"),
        (lambda llm: llm.score("a"), "compares two texts; pass texts_2 as well"),
        (lambda llm: llm.score(["a", "b"], ["c"]), "there are 2 first texts and 1 second ones"),
        (lambda llm: llm.classify("a"), "cannot classify: .*; call generate, .* or embed"),
    ],
)
def test_refusals_leave_nothing_behind(text_model, call, message):
    with LLM(text_model) as llm:
        with pytest.raises(InvalidRequestError, match=message):
            call(llm)
        assert not llm.engine.has_work
        assert llm.embed([[1] * 512])[0].finished


def test_a_prompt_that_the_cache_cannot_hold(backbone):
    with LLM(backbone("qwen3")[0], num_blocks=2) as llm:
        assert llm.embed([[1] * 32], pooling="mean")[0].finished
        with pytest.raises(InvalidRequestError, match="33 tokens and the whole cache holds 32"):
            llm.embed([[1] * 33])


def test_a_backbone_does_not_generate(backbone):
    with LLM(backbone("llama_bare")[0]) as llm:
        message = "^this model cannot generate text: .*no language-model head; call embed$"
        with pytest.raises(InvalidRequestError, match=message):
            llm.generate([[1, 2]], GREEDY)
        with pytest.raises(InvalidRequestError, match=message):
            next(llm.stream([1, 2], GREEDY))
        assert not llm.engine.has_work


POOLING = {
    "word_embedding_dimension": 64,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_lasttoken": False,
    "include_prompt": True,
}


def sentence_folder(source, target, kinds, pooling):
    shutil.copytree(source, target)
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    (target / "modules.json").write_text(json.dumps(modules))
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return str(target)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (POOLING, "mean"),
        ({**POOLING, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({**POOLING, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"embedding_dimension": 64, "pooling_mode": "mean"}, "mean"),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_sentence_transformers_folder_chooses(
    pooling, expected, normalize, backbone, prompts, tmp_path
):
    source, model = backbone("qwen3_bare")
    kinds = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    with LLM(sentence_folder(source, tmp_path / "st", kinds, pooling)) as llm:
        found = vectors(llm.embed(prompts[:6]))
        plain = vectors(llm.embed(prompts[:6], pooling="last", normalize=True))
    wanted = torch.stack([pooled(model, one, expected, normalize) for one in prompts[:6]])
    assert (found - wanted).abs().max() < 1e-4
    wanted = torch.stack([pooled(model, one, "last") for one in prompts[:6]])
    assert (plain - wanted).abs().max() < 1e-5


def test_a_sentence_transformers_folder_that_cannot_be_followed(backbone, tmp_path):
    source, _ = backbone("qwen3_bare")
    dense = sentence_folder(source, tmp_path / "a", ["Transformer", "Pooling", "Dense"], POOLING)
    with LLM(dense) as llm:
        with pytest.raises(InvalidRequestError, match="asks for Dense, which is not supported"):
            llm.embed([[1, 2]])
        assert len(llm.embed([[1, 2]], pooling="mean")[0].outputs.embedding) == 64
    both = {**POOLING, "pooling_mode_max_tokens": True}
    two = sentence_folder(source, tmp_path / "b", ["Transformer", "Pooling"], both)
    message = "asks for pooling_mode_mean_tokens, pooling_mode_max_tokens; supported is one of"
    with LLM(two) as llm, pytest.raises(InvalidRequestError, match=message):
        llm.embed([[1, 2]])
    for text in ("{}", "[3]", "[", '{"type": "Pooling"}'):
        (tmp_path / "a" / "modules.json").write_text(text)
        problem = "is not valid JSON" if text == "[" else "must hold a list of modules"
        with pytest.raises(ModelError, match=f"modules.json {problem}"):
            LLM(dense)


def test_the_asynchronous_engine_pools(backbone, prompts):
    folder, model = backbone("qwen3")

    async def scenario():
        engine = AsyncLLM(folder, max_batch_tokens=20)

        async def one(prompt, **options):
            params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
            return [output async for output in engine.generate(prompt, params, **options)]

        mean = PoolingParams(pooling="mean")
        vectors = asyncio.gather(*[one(prompt, pooling=mean) for prompt in prompts[:8]])
        texts = asyncio.gather(*[one(prompt) for prompt in prompts[:4]])
        try:
            return await vectors, await texts
        finally:
            engine.close()

    found, texts = asyncio.run(scenario())
    assert all(len(outputs) == 1 for outputs in found)
    got = torch.tensor([outputs[0].vector for outputs in found])
    expected = torch.stack([pooled(model, one, "mean") for one in prompts[:8]])
    assert (got - expected).abs().max() < 1e-5
    assert all([len(one.outputs[0].token_ids) for one in outputs] == [1] * 5 for outputs in texts)
