"""What do fewer active experts, and fewer experts, cost in quality and bring in speed and memory?

    python benchmarks/fewer_experts.py MODEL [--text FILE ...] [--cases 400] [--json FILE]

Variants: the model as it is; an average of active experts, divided over the layers by what their
weights bear (`active_experts`); a share of the experts of each layer, those that weighed most in
other texts (`expert_mask`). For each:

    bits_per_byte       of the texts, in pieces of 256 tokens; masks were counted on every second
                        piece, and the others are measured
    exact               share of the recipe's held-out tasks that are answered exactly, with a chat
                        template (recipes/tiny/skills.py); masks were counted on other tasks
    tokens_per_s        output tokens per second of the processor's time, one thread, 32 sequences
                        of 32 prompt tokens and 64 output tokens: the best of the rounds, in which
                        the variants take turns
    expert_bytes        of the experts' weights as they are loaded

The texts are the pages of docs/ unless others are named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from moe_sweep import watched, write_mask
from workloads import about, clock_of, seconds_of

from stoker import LLM, SamplingParams
from stoker.engine.execution.runner import ModelRunner
from stoker.engine.setup.experts import active_experts
from stoker.model.loader import weights

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "recipes" / "tiny"))
PIECE = 256
ROWS, PROMPT, OUTPUT = 32, 32, 64


def pieces_of(llm: LLM, files: list[Path]) -> list[list[int]]:
    ids = [token for file in files for token in llm.text.encode(file.read_text("utf-8"))]
    return [ids[at : at + PIECE] for at in range(0, len(ids) - PIECE + 1, PIECE)]


def bits_per_byte(llm: LLM, pieces: list[list[int]]) -> float:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    bits = size = 0.0
    for piece, output in zip(pieces, llm.generate(pieces, params), strict=True):
        assert output.prompt_logprobs is not None
        for token, entry in zip(piece[1:], output.prompt_logprobs[1:], strict=True):
            assert entry is not None
            bits -= entry[token].logprob / math.log(2)
        size += len(llm.text.decode(piece).encode()) - len(llm.text.decode(piece[:1]).encode())
    return bits / size


def chats(cases: list[Any]) -> list[Any]:
    return [[{"role": "user", "content": case.prompt}] for case in cases]


def exact(llm: LLM, cases: list[Any]) -> float:
    outputs = llm.chat(chats(cases), SamplingParams(temperature=0, max_tokens=96))
    answers = [output.outputs[0].text.strip() for output in outputs]
    return sum(found == one.answer for found, one in zip(answers, cases, strict=True)) / len(cases)


def serve(llm: LLM) -> None:
    """The workload whose tokens are counted."""
    rng = random.Random(0)
    prompts = [[rng.randrange(5, llm.spec.vocab) for _ in range(PROMPT)] for _ in range(ROWS)]
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=OUTPUT, ignore_eos=True))


def measure(llm: LLM, pieces: list[list[int]], cases: list[Any]) -> dict[str, Any]:
    assert isinstance(llm.engine.runner, ModelRunner)
    found = weights(llm.engine.runner.model)
    return {
        "active_experts": list(llm.plan.active_experts),
        "bits_per_byte": round(bits_per_byte(llm, pieces), 4),
        "exact": round(exact(llm, cases), 4),
        "expert_bytes": sum(tensor.nbytes for name, tensor in found if ".expert_" in name),
    }


def main() -> None:
    from skills import SKILLS, evaluation_cases, make_case

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, nargs="+")
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--active", type=float, nargs="+", default=[1.75, 1.5, 1.25, 1])
    parser.add_argument("--keep", type=float, nargs="+", default=[0.875, 0.75, 0.625, 0.5])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    files = args.text or sorted((ROOT / "docs").rglob("*.md"))
    each = -(-args.cases // len(SKILLS))
    tasks = [one for skill in SKILLS for one in evaluation_cases(skill, each, 0)]
    rng = random.Random(1)
    others = [make_case(skill, rng, (3, 5), False) for skill in SKILLS for _ in range(each)]
    told = {**about("torch"), "model": Path(args.model).name, "load": os.getloadavg()}
    options: dict[str, Any] = {"threads": 1, "prefix_cache": False}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        models = {"whole": opened.enter_context(LLM(args.model, **options))}
        pieces = pieces_of(models["whole"], files)
        own = active_experts(models["whole"].spec)
        variants: dict[str, dict[str, Any]] = {
            f"active {one:g}": {"active_experts": one}
            for one in args.active
            if one < sum(own) / len(own)
        }
        with LLM(args.model, **options) as llm:
            loads = watched(llm)
            once = SamplingParams(temperature=0, max_tokens=1)
            llm.generate(pieces[::2], once)
            llm.chat(chats(others), once)
        for share in args.keep:
            mask = write_mask(loads, share, Path(folder))
            variants[f"keep {share:g}"] = {"expert_mask": mask}
        for name, changes in variants.items():
            models[name] = opened.enter_context(LLM(args.model, **options, **changes))
        best = dict.fromkeys(models, math.inf)
        for _ in range(args.rounds):
            for name, llm in models.items():
                best[name] = min(best[name], seconds_of(partial(serve, llm), clock_of(threads=1)))
        rows = {}
        for name, llm in models.items():
            rows[name] = {"tokens_per_s": round(ROWS * OUTPUT / best[name])}
            rows[name] |= measure(llm, pieces[1::2], tasks)
            print(name, rows[name], flush=True)
    told |= {"cases": len(tasks), "pieces": len(pieces[1::2]), "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
