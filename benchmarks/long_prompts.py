"""How long a prompt fits into a given memory: in chunks, as always, and in one shot.

    python benchmarks/long_prompts.py [--memory 64] [--threads 2] [--json FILE]

Memory is that of keys and values, which grow with the prompt in both cases, and of activations,
which in chunks do not: what a fresh process, all of its cache touched before, grows by at its peak
while it prefills one prompt and draws a token. One shot means a budget of tokens
(`max_batch_tokens`) that holds the whole prompt. The longest prompt that stays below `--memory` MiB
is found by trying, to within 2 %, each time in a process of its own.

Two random models in float32: the 17 M-parameter shape of `workloads.py`, whose keys and values
take 8 KiB a token, and one with a wide network and one key-value head (4 KiB a token).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from workloads import SHAPES, about

CHUNK = 512
SIZES: dict[str, dict[str, Any]] = {
    "17m": SHAPES["17m"],
    "wide": SHAPES["17m"]
    | {
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "intermediate_size": 3072,
    },
}
CONTEXT = 1 << 16


def make_models(folder: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    for name, sizes in SIZES.items():
        config = Qwen3Config(**{**sizes, "max_position_embeddings": CONTEXT})
        Qwen3ForCausalLM(config).save_pretrained(folder / name)


def alone(folder: Path, budget: int, length: int, threads: int) -> None:
    """Print the bytes that this process grows by beside its cache, and the token drawn."""
    from stoker import LLM, SamplingParams

    rng, params = random.Random(0), SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    prompt = [rng.randrange(8192) for _ in range(length)]
    options = {"num_blocks": length // 16 + 2, "prefix_cache": False, "threads": threads}
    with LLM(str(folder), max_batch_tokens=budget, **options) as llm:
        llm.generate([prompt[:20]], params)
        llm.engine.runner.cache.clear()  # touches every page
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status("VmRSS")
        (output,) = llm.generate([prompt], params)
        print(status("VmHWM") - before, output.outputs[0].token_ids[0])


def status(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) << 10


class Prefill:
    """Prompts of one model, each in a process of its own."""

    def __init__(self, folder: Path, one_shot: bool, threads: int) -> None:
        self.folder, self.one_shot, self.threads = folder, one_shot, threads
        self.cache = cache_bytes(folder)
        self.drawn: dict[int, int] = {}  # length -> token

    def activations(self, length: int) -> int:
        """Bytes beside the cache, at the peak."""
        budget = length if self.one_shot else CHUNK
        command = [sys.executable, __file__, "--alone", str(self.folder), str(budget), str(length)]
        command += ["--threads", str(self.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown, self.drawn[length] = map(int, done.stdout.split()[-2:])
        return grown

    def longest(self, memory: int) -> int:
        """The longest prompt that takes at most `memory` bytes, to within 2 %, by bisection."""
        fits, too_long = 256, CONTEXT
        while too_long > 1.02 * fits:
            length = math.isqrt(fits * too_long)
            if self.activations(length) + self.cache * length <= memory:
                fits = length
            else:
                too_long = length
        return fits


def measure(folder: Path, memory: int, threads: int) -> dict[str, Any]:
    chunks, one_shot = (Prefill(folder, kind, threads) for kind in (False, True))
    short, long = 1024, 8192
    peaks = {length: chunks.activations(length) for length in (short, long)}
    peak = one_shot.activations(long)
    assert chunks.drawn[long] == one_shot.drawn[long], "the outputs differ"
    longest = chunks.longest(memory), one_shot.longest(memory)
    return {
        "cache_bytes_per_token": chunks.cache,
        f"activations_mib_{short}": round(peaks[short] / 2**20, 2),
        f"activations_mib_{long}": round(peaks[long] / 2**20, 2),
        f"activations_mib_{long}_one_shot": round(peak / 2**20, 2),
        "longest_in_chunks": longest[0],
        "longest_one_shot": longest[1],
        "ratio": round(longest[0] / longest[1], 2),
    }


def cache_bytes(folder: Path) -> int:
    """Bytes of keys and values of a token."""
    config = json.loads((folder / "config.json").read_text())
    sizes = config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]
    return 2 * 4 * sizes[0] * sizes[1] * sizes[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, default=64, help="MiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        folder, budget, length = args.alone
        alone(Path(folder), int(budget), int(length), args.threads)
        return
    results: dict[str, Any] = {"memory_mib": args.memory, "chunk": CHUNK, "threads": args.threads}
    with tempfile.TemporaryDirectory() as name:
        make_models(Path(name))
        for shape in SIZES:
            results[shape] = measure(Path(name) / shape, args.memory << 20, args.threads)
            print(shape, json.dumps(results[shape], indent=1))
    if args.json:
        args.json.write_text(json.dumps({**about("torch"), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
