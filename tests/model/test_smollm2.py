"""A real model, SmolLM2-135M-Instruct: where random weights prove nothing.

It comes from the cache that `.ci/assets` fills.
"""

import sys
from pathlib import Path

import pytest
import torch
from assets import asset
from transformers import AutoModelForCausalLM, AutoTokenizer

from stoker import LLM, SamplingParams

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from quality import measure

pytestmark = pytest.mark.assets
FOLDER = asset("smollm2")  # or the module is skipped

QUESTIONS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Count from one to five.",
    "Was ist 2 + 2?",
]
TOKENS = 16


def test_answers_are_those_of_transformers():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    expected = []
    for chat in chats:
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
        expected.append(made[0, ids["input_ids"].shape[1] :].tolist())
    params = SamplingParams(temperature=0, max_tokens=TOKENS)
    with LLM(str(FOLDER), max_batch_tokens=24, block_size=4) as llm:
        answers = [output.outputs[0] for output in llm.chat(chats, params)]
    for answer, ids in zip(answers, expected, strict=True):
        assert answer.token_ids == ids
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert "Paris" in answers[0].text


def test_text_costs_what_it_costs_transformers_and_little_more_in_other_formats():
    options = [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"dtype": "int8"}]
    options.append({"quantization": "llm_int8"})
    reference, *rows = measure(FOLDER, options, 600)
    most = {"float32": 1e-4, "bfloat16": 0.005, "int8": 0.04, "llm_int8": 0.01}
    for row in rows:
        worse = row["bits_per_byte"] / reference["bits_per_byte"] - 1
        assert worse < most[row.get("quantization", row.get("dtype"))], row
    assert rows[0]["same_next_token"] == 1
    assert rows[0]["largest_kl_nats"] < 1e-5
    assert 1 < reference["bits_per_byte"] < 3
