"""Tests of the skill generators and of the shipped models' files.

Every expected answer is worked out a second time, from the prompt alone. Measures no model.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes" / "tiny"))

from skills import SKILLS, Case, evaluation_cases, is_held_out, make_case  # noqa: E402

SIZES = (3, 8)
SHIPPED = ("stoker-tiny", "stoker-tiny-draft", "stoker-tiny-moe", "stoker-tiny-hybrid")
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def training_cases(skill: str, seed: int, count: int = 200) -> list[Case]:
    rng = random.Random(seed)
    return [make_case(skill, rng, SIZES, held_out=False) for _ in range(count)]


def solve_dates(prompt: str) -> str:
    text = re.sub(r"YYYY-MM-DD|8601", "", prompt).lower()
    if numeric := re.search(r"(\d{4})[./](\d+)[./](\d+)", text):
        year, month, day = (int(part) for part in numeric.groups())
        return f"{year}-{month:02d}-{day:02d}"
    text = re.sub(r"\b(mon|tue|wed|thu|fri|sat|sun)\w*", "", text)
    found = re.search(r"\b(" + "|".join(MONTHS) + r")[a-z]*", text)
    assert found is not None
    if short := re.search(r"'(\d\d)", text):
        year = int(short[1]) + (1900 if int(short[1]) >= 50 else 2000)
        text = text.replace(short[0], "")
    else:
        year = int(re.findall(r"\d{4}", text)[0])
        text = text.replace(str(year), "")
    day = int(re.findall(r"\d+", text)[0])
    return f"{year}-{MONTHS.index(found[1]) + 1:02d}-{day:02d}"


def solve_recall(prompt: str) -> str:
    lines = dict(line.split(": ") for line in prompt.split("\n") if line.count(": ") == 1)
    return lines[re.findall(r"\w+", prompt)[-1]]


def solve_copy(prompt: str) -> str:
    return re.sub(r"\A(Repeat exactly: |Copy this text\.\n|Say this again: )", "", prompt)


def solve_sort(prompt: str) -> str:
    items = prompt.split(": ")[1]
    separator = ", " if ", " in items else " "
    parts = items.split(separator)
    by_value = sorted(parts, key=lambda part: (int(part), "") if part.isdigit() else (0, part))
    return separator.join(by_value)


def solve_arithmetic(prompt: str) -> str:
    found = re.search(r"(\d+) ([*+-]) (\d+)", prompt)
    assert found is not None
    left, right = int(found[1]), int(found[3])
    return str({"+": left + right, "-": left - right, "*": left * right}[found[2]])


def solve_extract(prompt: str) -> str:
    forms = (
        r"(?P<time>\S+) (?P<level>[A-Z]+) \[(?P<service>\w+)\] user=(?P<user>\w+) "
        r"status=(?P<status>\d+) took (?P<ms>\d+) ms",
        r"(?P<level>[A-Z]+) (?P<time>\S+) (?P<service>\w+): (?P<user>\w+) got "
        r"(?P<status>\d+) after (?P<ms>\d+) ms",
        r"\[(?P<time>\S+)\] (?P<service>\w+) (?P<level>[A-Z]+) status (?P<status>\d+) "
        r"for user (?P<user>\w+) in (?P<ms>\d+) ms",
    )
    fields = next(found for form in forms if (found := re.search(form, prompt))).groupdict()
    asked = re.search(r"Extract (.*) as JSON|JSON with (.*):", prompt)
    assert asked is not None
    names = (asked[1] or asked[2]).split(", ")
    numbers = {"status", "ms"}
    return json.dumps({n: int(fields[n]) if n in numbers else fields[n] for n in names})


def solve_sequence(prompt: str) -> str:
    items = prompt.split(": ")[1].split(", ")
    if items[0].isdigit():
        return str(2 * int(items[-1]) - int(items[-2]))
    period = next(p for p in range(1, len(items)) if items[p:] == items[:-p])
    return items[-period]


SOLVERS: dict[str, Callable[[str], str]] = {
    "dates": solve_dates,
    "recall": solve_recall,
    "copy": solve_copy,
    "sort": solve_sort,
    "arithmetic": solve_arithmetic,
    "extract": solve_extract,
    "sequence": solve_sequence,
}


@pytest.mark.parametrize("skill", SKILLS)
def test_same_seed_gives_the_same_cases(skill: str) -> None:
    assert training_cases(skill, 5) == training_cases(skill, 5)
    assert training_cases(skill, 5) != training_cases(skill, 6)
    assert evaluation_cases(skill, 20, 5) == evaluation_cases(skill, 20, 5)


@pytest.mark.parametrize("skill", SKILLS)
def test_no_held_out_prompt_is_ever_trained_on(skill: str) -> None:
    held_out = {case.prompt for case in evaluation_cases(skill, 100, 1)}
    trained = {case.prompt for case in training_cases(skill, 1, 2000)}
    assert len(held_out) == 100
    assert all(is_held_out(prompt) for prompt in held_out)
    assert not held_out & trained


@pytest.mark.parametrize("skill", SKILLS)
def test_every_answer_is_right(skill: str) -> None:
    for case in training_cases(skill, 2, 1000) + evaluation_cases(skill, 100, 2):
        assert SOLVERS[skill](case.prompt) == case.answer, case


def test_example_tasks_are_held_out_and_right() -> None:
    lines = (ROOT / "examples" / "tasks.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len({row["prompt"] for row in rows}) == 1000
    assert {row["skill"] for row in rows} == set(SKILLS)
    for row in rows:
        assert is_held_out(row["prompt"])
        assert SOLVERS[row["skill"]](row["prompt"]) == row["expected"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_model_loads_in_transformers(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "stoker" / "shipped" / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in (
        "plain words",
        "  two  spaces\n\ttab 12.50 €, ünïcödé 漢字",
        "def f(x):\n    pass",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = [{"role": "user", "content": "Repeat exactly: river stone apple"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>Repeat exactly: river stone apple<|end|><|assistant|>"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=16)[0, ids.shape[1] :]
    assert made[-1] == tokenizer.eos_token_id
    if name == "stoker-tiny":
        assert tokenizer.decode(made, skip_special_tokens=True) == "river stone apple"


def test_shipped_models_share_one_tokenizer_and_stay_small() -> None:
    folders = [ROOT / "stoker" / "shipped" / name for name in SHIPPED]
    assert len({(folder / "tokenizer.json").read_bytes() for folder in folders}) == 1
    assert sum(f.stat().st_size for folder in folders for f in folder.iterdir()) < 24e6
    assert sum(f.stat().st_size for folder in folders[2:] for f in folder.iterdir()) < 12e6
