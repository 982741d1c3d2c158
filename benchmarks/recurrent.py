"""How fast are models with recurrent states next to transformers?

    python benchmarks/recurrent.py [KIND ...] [--requests 32] [--prompt 128] [--output 32]
                                   [--threads 2] [--rounds 3] [--json FILE]

Random models of a few ten million parameters, one for each kind of state. All requests have a
prompt of the same length and the same number of answer tokens, which suits transformers: its batch
has no padding and none ends early. A run that makes one token tells the time of the prompts, and
one that makes them all, less that, the time of the decodes. Both engines take turns in a round, and
a figure is the best of all rounds. Times are those of the clock, or, with one thread, of the
processor, which other loads on the machine touch less.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from workloads import about, clock_of, seconds_of

from stoker import LLM, SamplingParams

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


def ours(llm: LLM, prompts: list[list[int]], count: int) -> None:
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    llm.generate(prompts, params)


@torch.inference_mode()
def theirs(model: Any, prompts: list[list[int]], count: int) -> None:
    ids = torch.tensor(prompts)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
    )


def measure(kind: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Tokens a second of each engine, in prompts and in decodes."""
    clock = clock_of(args.threads)
    model = make(kind)
    generator = torch.Generator().manual_seed(0)
    best: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        options = {"threads": args.threads, "max_batch_tokens": args.requests * 16}
        with LLM(folder, prefix_cache=False, **options) as llm:  # sets both engines' threads
            engines = {"stoker": partial(ours, llm), "transformers": partial(theirs, model)}
            for _ in range(args.rounds):
                shape = (args.requests, args.prompt)
                prompts = torch.randint(8192, shape, generator=generator).tolist()
                for count in (1, args.output):
                    for name, run in engines.items():
                        took = seconds_of(partial(run, prompts, count), clock)
                        best[name, count] = min(took, best.get((name, count), took))
    found = {}
    for name in engines:
        prefill, whole = best[name, 1], best[name, args.output]
        found[name] = {
            "prompts": args.requests * args.prompt / prefill,
            "decodes": args.requests * (args.output - 1) / max(whole - prefill, 1e-9),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {}
    print(f"{'tokens a second':20}{'stoker':>12}{'transformers':>14}{'times':>8}")
    for kind in args.kinds or KINDS:
        results[kind] = measure(kind, args)
        for what in ("prompts", "decodes"):
            one, other = (results[kind][name][what] for name in ("stoker", "transformers"))
            print(f"{kind + ' ' + what:20}{one:12.0f}{other:14.0f}{one / other:8.1f}")
    if args.json:
        told = {**about("torch", "transformers"), "results": results}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
