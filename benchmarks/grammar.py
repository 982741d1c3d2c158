"""Throughput of constrained rows against unconstrained ones of the same lengths.

Each constrained run is followed by a free one, which draws as many tokens for each row (its end
of sequence ignored), so that both do the same steps. What is printed is the median of the pairs;
the cost is the share of throughput that is lost. A shape is one of workloads.py with random
weights and the tokenizer of stoker-tiny.

    python benchmarks/grammar.py [--rows 128] [--repeats 11] [--running 64]
        [--model stoker-tiny | --shape 17m] [--dtype auto]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from workloads import SHAPES, make_model

from stoker import LLM, SamplingParams
from stoker.model.checkpoint import resolve_folder

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 8, "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["person", "place", "thing"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 6},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}
FORMS = {
    "json_schema": {"json_schema": SCHEMA},
    "regex": {"regex": r"([a-z]{3,12} ){12,30}[0-9]{4}"},
    "choice": {"choice": ["a person", "a place in the country", "something else entirely"]},
}


def run(llm: LLM, prompts: list[list[int]], params: list[SamplingParams]) -> tuple[float, list]:
    """Seconds, and the outputs."""
    llm.engine.scheduler.reset()  # each run computes its prompts
    start = time.perf_counter()
    outputs = llm.generate(prompts, params)
    return time.perf_counter() - start, [one.outputs[0] for one in outputs]


def make_shape(shape: str, folder: Path) -> None:
    """Save a model of a shape with the tokenizer of the shipped one."""
    shipped = resolve_folder("stoker-tiny")
    make_model(folder, shape)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(shipped / file, folder / file)
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = json.loads((shipped / "config.json").read_text())["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--running", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--model", default="stoker-tiny")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    options = {"max_running": args.running, "dtype": args.dtype, "device": args.device}
    with tempfile.TemporaryDirectory() as folder:
        if args.shape:
            make_shape(args.shape, Path(folder))
        with LLM(folder if args.shape else args.model, **options) as llm:
            measure(llm, args)


def measure(llm: LLM, args: argparse.Namespace) -> None:
    """Print a line for each form."""
    prompts = [llm.text.encode(f"Number {n}: describe it.") for n in range(args.rows)]
    common = {"temperature": args.temperature, "max_tokens": 200}
    for name, form in FORMS.items():
        start = time.perf_counter()
        llm.engine.check(SamplingParams(**form))
        compiled = time.perf_counter() - start
        pairs, tokens = [], 0
        for repeat in range(args.repeats + 1):
            asked = [SamplingParams(**common, **form, seed=n) for n in range(args.rows)]
            held, outputs = run(llm, prompts, asked)
            tokens = sum(len(one.token_ids) for one in outputs)
            free = [
                SamplingParams(
                    temperature=args.temperature,
                    max_tokens=len(one.token_ids),
                    ignore_eos=True,
                    seed=n,
                )
                for n, one in enumerate(outputs)
            ]
            plain, found = run(llm, prompts, free)
            assert [len(one.token_ids) for one in found] == [len(o.token_ids) for o in outputs]
            if repeat:  # the first pair warms up
                pairs.append((held, plain))
        held = statistics.median(pair[0] for pair in pairs)
        plain = statistics.median(pair[1] for pair in pairs)
        cost = 1 - statistics.median(pair[1] / pair[0] for pair in pairs)  # of throughput
        print(
            f"{name:12} {tokens:6} tokens  constrained {tokens / held:8.0f} tokens/s  "
            f"free {tokens / plain:8.0f} tokens/s  cost {cost:.1%}  compiled in "
            f"{compiled * 1e3:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
