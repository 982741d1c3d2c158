"""Steps under a time target: decodes while a long prompt is read, by fixed chunks and by time.

Eight sequences decode; then a prompt of `--prompt` tokens comes. Measured are the steps until its
first token: their 95th percentile, which is what the decodes wait for a token, and the sum, which
is what the prompt takes. By fixed chunks (`max_batch_tokens`), and with the target (`step_time`)
under the largest of these. Random weights of a Qwen3 shape, float32 on a CPU; rounds interleaved,
medians of the rounds.

    python benchmarks/step_time.py [--target 60] [--shape 17m] [--rounds 5] [--json FILE]

The target holds if the 95th percentile is below 1.1 of it, and the prompt takes at most 1.2 times
as long as with the largest fixed chunk.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from workloads import SHAPES, about

from stoker import LLM, SamplingParams
from stoker.engine.request.request import Request

CHUNKS = (64, 128, 256, 512, 1024, 2048)
DECODES = 8


def make_long_model(folder: Path, shape: str, context: int) -> None:
    """Save a model of random weights with room for the prompt."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**{**SHAPES[shape], "max_position_embeddings": context})
    Qwen3ForCausalLM(config).save_pretrained(folder)


def prefill(llm: LLM, vocab: int, prompt: int, rng: random.Random) -> list[float]:
    """Seconds of each step until the long prompt's first token."""
    engine = llm.engine
    free = SamplingParams(temperature=0, max_tokens=10_000, ignore_eos=True)

    def add(name: str, tokens: int, params: SamplingParams) -> None:
        ids = tuple(rng.randrange(vocab) for _ in range(tokens))
        engine.add(Request(name, ids, params, 0))

    for number in range(DECODES):
        add(f"decode-{number}", 32, free)
    for _ in range(20):
        engine.step()
    add("long", prompt, SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
    seconds, done = [], False
    while not done:
        start = time.perf_counter()
        outputs = engine.step()
        seconds.append(time.perf_counter() - start)
        done = any(output.request_id == "long" for output in outputs)
    for number in range(DECODES):
        engine.cancel(f"decode-{number}")
    return seconds


def summary(rounds: list[list[float]]) -> dict[str, float]:
    return {
        "p95_ms": 1000 * statistics.median(percentile(one, 0.95) for one in rounds),
        "largest_ms": 1000 * statistics.median(map(max, rounds)),
        "prompt_s": statistics.median(map(sum, rounds)),
        "steps": statistics.median(map(len, rounds)),
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    base: dict[str, Any] = {"threads": args.threads, "prefix_cache": False, "max_running": 16}
    # room for all to reach the context, or the long prompt would have to wait for it
    blocks = (DECODES + 1) * -(-(args.prompt + 64) // 16)
    base |= {"num_blocks": blocks, "max_context": args.prompt + 64}
    base |= {"device": args.device, "dtype": args.dtype}
    vocab = SHAPES[args.shape]["vocab_size"]
    chunks = [chunk for chunk in CHUNKS if chunk <= args.largest]
    settings: dict[str, dict[str, Any]] = {
        f"chunk {chunk}": {"max_batch_tokens": chunk} for chunk in chunks
    }
    settings[f"{args.target:g} ms"] = {
        "max_batch_tokens": args.largest,
        "step_time": args.target,
    }
    engines = {name: LLM(str(folder), **base, **own) for name, own in settings.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in engines}
    for number in range(args.rounds + 1):
        for name, llm in engines.items():
            seconds = prefill(llm, vocab, args.prompt, random.Random(number))
            if number:  # the first is to warm up
                rounds[name].append(seconds)
    return {name: summary(found) for name, found in rounds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=float, default=60, help="milliseconds")
    parser.add_argument("--shape", choices=SHAPES, default="17m")
    parser.add_argument("--prompt", type=int, default=8000)
    parser.add_argument("--largest", type=int, default=512, help="largest fixed chunk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_long_model(Path(name), args.shape, args.prompt + 64)
        result = measure(Path(name), args)
    for name, one in result.items():
        print(
            f"{name:12} p95 {one['p95_ms']:7.1f} ms  largest {one['largest_ms']:7.1f} ms  "
            f"prompt {one['prompt_s']:6.2f} s  {one['steps']:5.0f} steps"
        )
    timed, fixed = result[f"{args.target:g} ms"], result[f"chunk {args.largest}"]
    ratios = {
        "p95_of_target": timed["p95_ms"] / args.target,
        "prompt_of_largest_chunk": timed["prompt_s"] / fixed["prompt_s"],
    }
    print(
        f"p95 is {ratios['p95_of_target']:.2f} of the target (limit 1.1), the prompt takes "
        f"{ratios['prompt_of_largest_chunk']:.2f} of the largest chunk's time (limit 1.2)"
    )
    if args.json:
        options = {name: value for name, value in vars(args).items() if name != "json"}
        found = {**about("torch"), "options": options, "settings": result, **ratios}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
