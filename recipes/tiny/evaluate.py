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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from skills import SKILLS, Case, evaluation_cases, make_case
from tokenizer import END_OF_TEXT
from transformers import AutoModelForCausalLM, AutoTokenizer

NEEDLE_LENGTHS = (128, 256, 512, 1024, 2048, 3072, 4096)
ANSWER_TOKENS = 256
WINDOW = 1024


Answerer = Callable[[list[str]], list[str]]


def with_stoker(model: Path) -> Answerer:
    """Greedy answers from Stoker."""
    from stoker import LLM, SamplingParams

    llm = LLM(str(model), dtype="float32", threads=torch.get_num_threads())
    params = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS)

    def answer(prompts: list[str]) -> list[str]:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return [result.outputs[0].text for result in llm.chat(chats, params)]

    return answer


def with_transformers(model: Path) -> Answerer:
    """Greedy answers from transformers, one prompt at a time."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    def answer_one(prompt: str) -> str:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        made = network.generate(ids, max_new_tokens=ANSWER_TOKENS)[0, ids.shape[1] :]
        return tokenizer.decode(made, skip_special_tokens=True)

    return lambda prompts: [answer_one(prompt) for prompt in prompts]


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
    """All numbers of one model; each group's number is printed as soon as it is there."""
    began = time.monotonic()
    answer = ENGINES[args.engine](args.model)
    groups = {skill: evaluation_cases(skill, args.count, args.seed) for skill in SKILLS}
    if args.needles:
        needles = needle_cases(args.model, args.needles, args.seed)
        groups.update({f"needle-{length}": cases for length, cases in needles.items()})
    exact: dict[str, float] = {}
    for name, cases in groups.items():
        answers = answer([case.prompt for case in cases])
        right = sum(a == case.answer for a, case in zip(answers, cases, strict=True))
        exact[name] = right / len(cases)
        print(name, exact[name], f"after {time.monotonic() - began:.0f} s", flush=True)
    texts = (args.data / "held_out.txt").read_text(encoding="utf-8").split("\0")
    return {
        "exact_match": exact,
        "bits_per_byte": bits_per_byte(args.model, texts),
        "engine": args.engine,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the folder of held_out.txt")
    parser.add_argument("--count", type=int, default=1000, help="cases per skill")
    parser.add_argument("--needles", type=int, default=100, help="cases per context length")
    parser.add_argument("--threads", type=int, default=2, help="1 where other programs run")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--engine", choices=sorted(ENGINES), default="stoker")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = json.dumps(measure(args), indent=2)
    print(report)
    if args.out:
        args.out.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
