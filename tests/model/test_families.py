"""Every family against transformers: the same greedy tokens and logits, however work is cut.

Families that transformers does not have are compared with plain models (plain.py).
"""

import functools
import random
from pathlib import Path

import pytest
import torch
from plain import PLAIN, PlainCheckpoint
from zoo import CONTEXTS, VOCAB, ZOO, make

import stoker
from stoker import LLM, SamplingParams
from stoker.engine.scheduling.forecast import Forecast
from stoker.model.families import FAMILIES
from stoker.model.families.__main__ import page
from stoker.model.families.refused import REFUSED
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.native.build import load_kernels
from stoker.ops.select import Operations

COUNT = 12
SETTINGS = {
    "mixed": {},
    "budget7": {"max_batch_tokens": 7, "block_size": 1, "num_blocks": 2000},
    "blocks64": {"block_size": 64, "prefix_cache": False},
    "preempted": {"block_size": 4, "num_blocks": 20},
    "preempted_without_prefix_cache": {"block_size": 4, "num_blocks": 20, "prefix_cache": False},
}


@pytest.fixture(scope="session")
def zoo(save_checkpoint, tmp_path_factory):
    """A function from a row of zoo.py or plain.py to its checkpoint."""

    def get(name):
        if name in PLAIN:
            return PlainCheckpoint(tmp_path_factory.mktemp(name), name)
        return save_checkpoint(name, make(name))

    return functools.cache(get)


@pytest.fixture(scope="session")
def short_prompts():
    """Ten ragged prompts, some past the windows of 16, some with a common beginning."""
    rng = random.Random(3)
    stem = [rng.randrange(VOCAB) for _ in range(24)]
    ragged = [[rng.randrange(VOCAB) for _ in range(n)] for n in (1, 3, 15, 17, 33, 40)]
    return ragged + [stem[:20] + [rng.randrange(VOCAB) for _ in range(n)] for n in (1, 5, 9, 18)]


def test_every_family_has_a_row(zoo):
    plain = {config["architectures"][0] for config, _ in PLAIN.values()}
    assert {zoo(name).model.config.architectures[0] for name in ZOO} | plain == set(FAMILIES)


def test_what_transformers_generates_with_is_taken_or_refused_with_a_reason():
    from transformers.models.auto import modeling_auto

    known = {*modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    assert known <= {*FAMILIES, *REFUSED}
    assert {*REFUSED} <= known
    assert not {*FAMILIES} & {*REFUSED}
    readme = (Path(stoker.__file__).parent.parent / "README.md").read_text()
    assert f"{len(known & {*FAMILIES})} of the {len(known)} architectures" in readme


def test_the_page_of_models_is_up_to_date():
    path = Path(stoker.__file__).parent.parent / "docs" / "models.md"
    assert path.read_text() == page(), "python -m stoker.model.families > docs/models.md"


@pytest.mark.parametrize("name", [*ZOO, *(name for name in PLAIN if name != "no_attention")])
def test_tokens_and_logits_equal_transformers(name, zoo, short_prompts, monkeypatch):
    model, context = zoo(name), CONTEXTS.get(name)
    expected, first = None, None
    for setting, options in SETTINGS.items():
        if setting.startswith("preempted"):  # all are admitted, with few blocks
            monkeypatch.setattr(Forecast, "fits", lambda *_: True)
        with LLM(model.folder, max_context=context, **options) as llm:
            seen = keep_logits(llm)
            tokens = generate(llm, short_prompts)
            groups = llm.engine.runner.model.spec.cache_groups
            if setting.startswith("preempted") and not all(one.keeps_state for one in groups):
                assert llm.engine.scheduler.num_preemptions > 0
        expected = expected or greedy_answers(model, short_prompts, tokens)
        assert tokens == [[one] for one in expected], setting
        assert 0 < worst_difference(seen, model) < 1e-4, setting
        first = first or seen
        if load_kernels("attention"):  # where rows are computed one by one
            assert all(torch.equal(row, first[key]) for key, row in seen.items()), setting
    with LLM(model.folder, max_context=context, max_batch_tokens=20) as llm:
        tokens = generate(llm, short_prompts, n=3)
    assert tokens == [[one] * 3 for one in expected]
    assert len({tuple(tokens) for tokens in expected}) > 5, "the model repeats itself"


PLAIN_OPERATIONS = (
    *("gemma2", "gemma3", "gemma3n", "granite_swa", "llama4", "cohere_qk_norm", "olmo3", "gpt2"),
    "jamba",
)


@pytest.mark.parametrize("name", PLAIN_OPERATIONS)
def test_plain_operations_give_the_same(name, zoo, short_prompts):
    """Where no C compiler is at hand, PyTorch's own operations serve."""
    model = zoo(name)
    with LLM(model.folder, max_batch_tokens=50) as llm:
        llm.engine.runner.model.ops = Operations(CpuAttention())
        seen = keep_logits(llm)
        tokens = generate(llm, short_prompts)
    assert tokens == [[model.greedy(prompt, COUNT)] for prompt in short_prompts]
    assert worst_difference(seen, model) < 1e-4


@pytest.mark.parametrize("name", ["gemma2", "gemma3n", "gpt_oss", "cohere_qk_norm", "gpt2", "opt"])
def test_bfloat16(name, zoo, short_prompts):
    model = zoo(name)
    with LLM(model.folder, dtype="bfloat16") as llm:
        seen = keep_logits(llm)
        tokens = generate(llm, short_prompts)
    assert all(row.dtype == torch.bfloat16 for row in seen.values())
    pairs = zip(tokens, short_prompts, strict=True)
    assert sum(one[0][0] == model.greedy(prompt, COUNT)[0] for one, prompt in pairs) >= 7


def generate(llm, prompts, n=1):
    params = SamplingParams(n=n, temperature=0, max_tokens=COUNT, stop_token_ids=[10**6])
    return [[one.token_ids for one in output.outputs] for output in llm.generate(prompts, params)]


def greedy_answers(model, prompts, tokens):
    """The model's greedy answers: of the first and the last prompt by steps, of others as `tokens`
    are confirmed.
    """
    last = len(prompts) - 1
    guesses = [None if n in (0, last) else one for n, [one] in enumerate(tokens)]
    return [model.greedy(p, COUNT, guess) for p, guess in zip(prompts, guesses, strict=True)]


def keep_logits(llm):
    """A dict that is filled with the logits of each draw: (prompt, position) -> (V,) on a CPU."""
    runner, scheduler, seen = llm.engine.runner, llm.engine.scheduler, {}
    forward = runner.forward

    def keep(step, *rest, **how):
        logits = forward(step, *rest, **how)
        drawn = [item for item in step.items if item.draws]
        for item, row in zip(drawn, logits, strict=True):
            prompt = tuple(scheduler[item.sequence].request.prompt_token_ids)
            seen[prompt, item.end] = row.to("cpu", copy=True)
        return logits

    runner.forward = keep
    return seen


def worst_difference(seen, model):
    """The largest from transformers' logits; NaN counts as infinitely different."""
    worst = 0.0
    for (prompt, end), row in seen.items():
        whole = model.logits([*prompt, *model.greedy(prompt, COUNT)])
        worst = max(worst, (row - whole[end - 1]).abs().nan_to_num(float("inf")).max().item())
    return worst
