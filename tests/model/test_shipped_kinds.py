"""The shipped mixture of experts and hybrid: trained weights, where random ones prove little."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stoker import LLM, SamplingParams

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes" / "tiny"))

from skills import SKILLS, evaluation_cases  # noqa: E402

CASES = [case for skill in SKILLS for case in evaluation_cases(skill, 2, 5)]
SETTINGS = {
    "as it is": {},
    "small steps": {"max_batch_tokens": 37, "block_size": 8},
    "no reuse": {"prefix_cache": False, "max_running": 5},
}
RIGHT = {"stoker-tiny-moe": 4, "stoker-tiny-hybrid": 7}


@pytest.mark.parametrize("name", RIGHT)
def test_answers_are_those_of_transformers_and_often_right(name):
    folder = ROOT / "stoker" / "shipped" / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chats = [[{"role": "user", "content": case.prompt}] for case in CASES]
    params = SamplingParams(temperature=0, max_tokens=16)
    expected = []
    for chat in chats:
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=16, do_sample=False)
        expected.append(made[0, ids["input_ids"].shape[1] :].tolist())
    for setting, options in SETTINGS.items():
        with LLM(name, **options) as llm:
            answers = [output.outputs[0] for output in llm.chat(chats, params)]
        assert [answer.token_ids for answer in answers] == expected, setting
    right = sum(a.text == case.answer for a, case in zip(answers, CASES, strict=True))
    assert right >= RIGHT[name]
