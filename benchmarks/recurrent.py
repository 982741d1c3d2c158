"""How fast are models with recurrent states next to transformers, and how fast could they be?

    python benchmarks/recurrent.py [KIND ...] [--requests 32] [--prompt 128] [--output 32]
                                   [--threads 2] [--rounds 3] [--mixed] [--json FILE]

Random models of a few ten million parameters, one for each kind of state. All requests have a
prompt of the same length and the same number of answer tokens, which suits transformers: its batch
has no padding and none ends early. A run that makes one token tells the time of the prompts, and
one that makes them all, less that, the time of the decodes.

With `--mixed` prompts and answers also have lengths from an eighth of those to twice as many, as
requests of users differ; transformers then pads its one batch on the left, as its `generate` asks
for, and goes on until the longest answer is made. What is padded does not count as tokens.

"at most" is what the ratio would be if Stoker did nothing but multiply with weights: transformers'
time, by that of the FLOPs of these products and of attention at the rate of the products alone.

Both engines take turns in a round, and a figure is the best of all rounds. Times are those of the
clock, or, with one thread, of the processor, which other loads on the machine touch less.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from losses import products, profile
from workloads import Clock, Workload, about, clock_of, outputs_of, seconds_of

from stoker import LLM, SamplingParams
from stoker.model.layers.linear import Linear
from stoker.model.transformer import Transformer

SIZES: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
NET: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 64,
    "linear_num_key_heads": 6,
    "linear_num_value_heads": 6,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 12,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "mlp_layer_types": ["dense"] * 8,
    "linear_attn_config": {"num_heads": 6, "head_dim": 128, "short_conv_kernel_size": 4},
}
# whose chunks would be padded to 256 tokens in transformers
HEADS = {"num_heads": 24, "head_dim": 64, "state_size": 128, "n_groups": 1, "chunk_size": 64}
SHORT = {"num_key_value_heads": 4, "layer_types": ["conv", "conv", "full_attention", "conv"] * 2}
# kind -> (transformers' classes, changes to SIZES)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "delta": ("Qwen3_5Text Qwen3_5ForCausalLM", NET),
    "delta-by-channel": ("KimiLinear KimiLinearForCausalLM", LATENT),
    "mamba": ("Mamba MambaForCausalLM", {"intermediate_size": 1536}),
    "mamba-2": ("Mamba2 Mamba2ForCausalLM", HEADS),
    "convolutions": ("Lfm2 Lfm2ForCausalLM", SHORT),
    "rg-lru": ("RecurrentGemma RecurrentGemmaForCausalLM", {"num_key_value_heads": 1}),
}


def make(kind: str) -> Any:
    import transformers

    names, changes = KINDS[kind]
    config_name, model_name = names.split()
    config = getattr(transformers, f"{config_name}Config")(**{**SIZES, **changes})
    torch.manual_seed(0)
    return getattr(transformers, model_name)(config).eval()


def ours(llm: LLM, load: Workload) -> None:
    params = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for _, count in load]
    llm.generate([prompt for prompt, _ in load], params)


@torch.inference_mode()
def theirs(model: Any, load: Workload) -> None:
    prompts = [prompt for prompt, _ in load]
    count = max(count for _, count in load)
    longest = max(map(len, prompts))
    model.generate(
        torch.tensor([[0] * (longest - len(p)) + p for p in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
    )


def loads(args: argparse.Namespace, seed: int) -> dict[str, Workload]:
    """Requests that make one token, that make all, and mixed ones if asked for.

    Their lengths are the same for all seeds.
    """
    tokens, lengths = random.Random(seed), random.Random(0)

    def prompt(length: int) -> list[int]:
        return tokens.choices(range(SIZES["vocab_size"]), k=length)

    def around(length: int) -> int:
        return lengths.randint(max(length // 8, 1), 2 * length)

    prompts = [prompt(args.prompt) for _ in range(args.requests)]
    found = {
        "prompts": [(prompt, 1) for prompt in prompts],
        "whole": [(prompt, args.output) for prompt in prompts],
    }
    if args.mixed:
        pairs = [(around(args.prompt), around(args.output)) for _ in range(args.requests)]
        found["mixed"] = [(prompt(length), count) for length, count in pairs]
    return found


def product_rate(model: Transformer, rows: int, clock: Clock) -> float:
    """FLOP/s of all products with weights of the model's layers, one after another."""
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    inputs = [torch.randn(rows, linear.inputs) for linear in linears]

    def once() -> None:
        for linear, x in zip(linears, inputs, strict=True):
            linear(x)

    flops = sum(2 * rows * linear.inputs * products(linear.product) for linear in linears)
    return flops / min(seconds_of(once, clock) for _ in range(5))


def measure(kind: str, args: argparse.Namespace) -> tuple[dict[str, dict[str, float]], float]:
    """Tokens a second in prompts, decodes and mixed requests: of each engine, and at the limit.

    And the limit's FLOP/s.
    """
    clock = clock_of(args.threads)
    model = make(kind)
    best: dict[str, dict[str, float]] = {"stoker": {}, "transformers": {}}
    chunk = args.requests * 16
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        options = {"threads": args.threads, "max_batch_tokens": chunk}
        with LLM(folder, prefix_cache=False, **options) as llm:  # sets both engines' threads
            engines = {"stoker": partial(ours, llm), "transformers": partial(theirs, model)}
            for turn in range(args.rounds):
                for what, load in loads(args, turn).items():
                    for name, run in engines.items():
                        took = seconds_of(partial(run, load), clock)
                        best[name][what] = min(took, best[name].get(what, took))
            network = llm.engine.runner.model
            rate = max(product_rate(network, rows, clock) for rows in (chunk, args.requests))
            best["limit"] = {
                what: profile(llm, partial(ours, llm, load), rate, float("inf")).limit_seconds
                for what, load in loads(args, args.rounds).items()
            }
    tokens = {what: sum(len(p) for p, _ in load) for what, load in loads(args, 0).items()}
    found = {}
    for name, seconds in best.items():
        decodes = max(seconds["whole"] - seconds["prompts"], 1e-9)
        found[name] = {
            "prompts": tokens["prompts"] / seconds["prompts"],
            "decodes": args.requests * (args.output - 1) / decodes,
        }
        if args.mixed:
            made = outputs_of(loads(args, 0)["mixed"])
            found[name]["mixed"] = (tokens["mixed"] + made) / seconds["mixed"]
    return found, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results, rates = {}, {}
    print(f"{'tokens a second':24}{'stoker':>12}{'transformers':>14}{'times':>8}{'at most':>9}")
    for kind in args.kinds or KINDS:
        results[kind], rate = measure(kind, args)
        rates[kind] = rate
        one, other, limit = (results[kind][name] for name in ("stoker", "transformers", "limit"))
        for what in one:
            ratio, most = one[what] / other[what], limit[what] / other[what]
            print(
                f"{f'{kind} {what}':24}{one[what]:12.0f}{other[what]:14.0f}{ratio:8.1f}{most:9.1f}"
            )
    if args.json:
        told = {**about("torch", "transformers"), "results": results, "flops": rates}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
