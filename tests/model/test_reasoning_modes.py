"""Chats with and without reasoning in one batch, on layers that differ (Llama-Nemotron)."""

import json

import pytest
from plain import PlainCheckpoint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stoker import LLM, SamplingParams
from stoker.job.job import prepare_job, run_job
from stoker.job.prompts import PromptSettings
from stoker.job.settings import JobSettings

COUNT = 10
# The mode is the system message, as Llama-Nemotron has it: "detailed thinking on" or "off".
TEMPLATE = (
    "{% set thinks = messages[0]['role'] == 'system' "
    "and messages[0]['content'] == 'detailed thinking on' %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ '<think>' if thinks }}{% endif %}"
)
QUESTIONS = ["2+2?", "why", "a longer question of some words", "x", "2+2?", "why"]
MODES = ["on", "off", "on", "on", "off", "on"]


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory):
    """A `PlainCheckpoint` with a tokenizer, a token for each byte, and that template."""
    checkpoint = PlainCheckpoint(tmp_path_factory.mktemp("nemotron"), "decilm", vocab=256)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(checkpoint.folder)
    return checkpoint


def chat(question, mode):
    return [
        {"role": "system", "content": f"detailed thinking {mode}"},
        {"role": "user", "content": question},
    ]


def expected(checkpoint, question, mode):
    """The plain model's tokens for the prompt that transformers makes."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    ids = tokenizer.apply_chat_template(chat(question, mode), add_generation_prompt=True)
    return checkpoint.greedy(tuple(ids["input_ids"]), COUNT)


def test_one_batch_mixes_both_modes(nemotron):
    chats = [chat(*one) for one in zip(QUESTIONS, MODES, strict=True)]
    with LLM(nemotron.folder, max_batch_tokens=40) as llm:
        forward, batches = llm.engine.runner.forward, []

        def watched(step, *rest, **how):
            sequences = {item.sequence for item in step.items}
            requests = [llm.engine.scheduler[one].request for one in sequences]
            batches.append({tuple(request.prompt_token_ids) for request in requests})
            return forward(step, *rest, **how)

        llm.engine.runner.forward = watched
        outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=COUNT))
    for output, question, mode in zip(outputs, QUESTIONS, MODES, strict=True):
        assert output.prompt.endswith("<think>") == (mode == "on")
        assert output.outputs[0].token_ids == expected(nemotron, question, mode)
    thinking = {
        tuple(output.prompt_token_ids): output.prompt.endswith("<think>") for output in outputs
    }
    assert any({thinking[prompt] for prompt in batch} == {True, False} for batch in batches)
    first, fifth = outputs[0], outputs[4]  # one question in both modes
    assert first.outputs[0].token_ids != fifth.outputs[0].token_ids


def test_a_column_chooses_the_mode_of_a_row(nemotron, tmp_path):
    rows = [
        {"prompt": question, "thinking": mode}
        for question, mode in zip(QUESTIONS, MODES, strict=True)
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = JobSettings(
        source,
        target,
        params=SamplingParams(temperature=0, max_tokens=COUNT),
        prompts=PromptSettings(system="detailed thinking {{ thinking }}"),
    )
    with LLM(nemotron.folder) as llm:
        run_job(llm, settings, prepare_job(settings), lambda report: None)
        decode = llm.text.tokenizer.decode
    written = [json.loads(line)["result"] for line in target.read_text().splitlines()]
    texts = [one["text"] for one in sorted(written, key=lambda one: one["row"])]
    assert texts == [
        decode(expected(nemotron, question, mode))
        for question, mode in zip(QUESTIONS, MODES, strict=True)
    ]
