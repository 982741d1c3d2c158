"""Measures an exported model: exact match per skill, a needle curve, and bits per byte.

Answers come from Stoker (or from transformers, for comparison) by greedy decoding with the
weights loaded in float32. Does not train or change the model.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from skills import SKILLS, Case, evaluation_cases, make_case
from tokenizer import END_OF_TEXT
from transformers import AutoModelForCausalLM, AutoTokenizer

NEEDLE_LENGTHS = (128, 256, 512, 1024, 2048, 3072, 4096)
ANSWER_TOKENS = 256
WINDOW = 1024


def with_stoker(model: Path, prompts: list[str]) -> list[str]:
    """Greedy answers from Stoker."""
    from stoker import LLM, SamplingParams

    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    params = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS)
    return [result.outputs[0].text for result in LLM(str(model)).chat(chats, params)]


@torch.no_grad()
def with_transformers(model: Path, prompts: list[str]) -> list[str]:
    """Greedy answers from transformers, in batches of prompts of similar length."""
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    order = sorted(range(len(chats)), key=lambda i: len(chats[i]))
    answers = [""] * len(chats)
    for start in range(0, len(order), 32):
        part = order[start : start + 32]
        inputs = tokenizer([chats[i] for i in part], return_tensors="pt", padding=True)
        made = network.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=ANSWER_TOKENS,
        )
        for i, ids in zip(part, made[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[i] = tokenizer.decode(ids, skip_special_tokens=True)
    return answers


ENGINES = {"stoker": with_stoker, "transformers": with_transformers}


def needle_case(tokenizer: Any, rng: random.Random, length: int) -> Case:
    """A held-out recall case whose prompt fills between 90 and 100 % of `length` tokens."""
    size = length // 7
    while True:
        case = make_case("recall", rng, (size, size), held_out=True)
        used = len(tokenizer(case.prompt)["input_ids"]) + 12
        if 0.9 * length <= used <= length:
            return case
        size += 1 if used < length else -1


def needle_cases(model: Path, count: int, seed: int) -> dict[int, list[Case]]:
    """Recall cases for every context length of the curve."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rng = random.Random(f"needle-{seed}")
    return {
        length: [needle_case(tokenizer, rng, length) for _ in range(count)]
        for length in NEEDLE_LENGTHS
    }


@torch.no_grad()
def bits_per_byte(model: Path, texts: list[str]) -> float:
    """Bits per UTF-8 byte over whole documents, in windows without overlap."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    start = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    nats, size = 0.0, 0
    for text in texts:
        size += len(text.encode())
        ids = tokenizer(text)["input_ids"]
        for first in range(0, len(ids), WINDOW):
            window = torch.tensor([[start, *ids[first : first + WINDOW]]])
            logits = network(window).logits[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    return nats / math.log(2) / size


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one model; every answer comes from one run over all prompts."""
    groups = {skill: evaluation_cases(skill, args.count, args.seed) for skill in SKILLS}
    needles = needle_cases(args.model, args.needles, args.seed)
    groups.update({f"needle-{length}": cases for length, cases in needles.items()})
    flat = [(name, case) for name, cases in groups.items() for case in cases]
    began = time.monotonic()
    answers = ENGINES[args.engine](args.model, [case.prompt for _, case in flat])
    seconds = time.monotonic() - began
    right = dict.fromkeys(groups, 0)
    for (name, case), answer in zip(flat, answers, strict=True):
        right[name] += answer == case.answer
    texts = (args.data / "held_out.txt").read_text(encoding="utf-8").split("\0")
    return {
        "exact_match": {name: right[name] / len(cases) for name, cases in groups.items()},
        "bits_per_byte": bits_per_byte(args.model, texts),
        "cases": len(flat),
        "engine": args.engine,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the folder of held_out.txt")
    parser.add_argument("--count", type=int, default=1000, help="cases per skill")
    parser.add_argument("--needles", type=int, default=200, help="cases per context length")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--engine", choices=sorted(ENGINES), default="stoker")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    report = json.dumps(measure(args), indent=2)
    print(report)
    if args.out:
        args.out.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
