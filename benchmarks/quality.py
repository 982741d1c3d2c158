"""How well does a model still do under an option set, and how far is it from transformers?

Bits per byte over `quality.txt`, pages of this project's documentation as they were on one day, so
that figures stay comparable; and against transformers in float32 over the same tokens: how often
the likeliest next token is the same, and the divergence of the distributions.

    python benchmarks/quality.py MODEL [--options dtype=bfloat16 dtype=int8] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from workloads import about

from stoker import LLM, SamplingParams

TEXT = Path(__file__).with_name("quality.txt")
WINDOW = 512


def windows(ids: list[int]) -> list[list[int]]:
    """Pieces of WINDOW + 1 tokens, each beginning with the last token of the one before.

    With windows of 3, ids a to h: abcd, defg, gh. Each token but the first is a target once.
    """
    starts = range(0, len(ids) - 1, WINDOW)
    return [ids[start : start + WINDOW + 1] for start in starts]


def by_transformers(model: Path, pieces: list[list[int]]) -> Iterator[Tensor]:
    """Log-probabilities (targets, V) of each piece, in float32."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for piece in pieces:
        with torch.inference_mode():
            yield network(torch.tensor([piece])).logits[0, :-1].log_softmax(-1)


def by_stoker(model: Path, pieces: list[list[int]], options: dict[str, Any]) -> Iterator[Tensor]:
    """The same from Stoker: the logits that it scores prompts with, as they pass."""
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    with LLM(str(model), prefix_cache=False, **options) as llm:
        runner, seen = llm.engine.runner, []
        head = runner._checked_logits

        def keep(*rest: Any) -> Tensor:
            logits = head(*rest)
            seen.append(logits[:, : llm.spec.vocab].to("cpu", torch.float32))
            return logits

        runner._checked_logits = keep
        for piece in pieces:
            seen.clear()
            llm.generate([piece], params)
            yield torch.cat(seen).log_softmax(-1)


def nats(scores: Tensor, piece: list[int]) -> float:
    """What the targets of a piece cost."""
    return float(-scores.double().gather(1, torch.tensor(piece[1:])[:, None]).sum())


def measure(model: Path, options: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """A row for transformers, then one for each option set."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = TEXT.read_text(encoding="utf-8").encode()[:size].decode(errors="ignore")
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces, count = windows(ids), len(ids) - 1
    size = len(text.encode()) - len(tokenizer.decode(ids[:1]).encode())
    reference = list(by_transformers(model, pieces))

    def bits(scores: list[float]) -> float:
        return round(sum(scores) / math.log(2) / size, 5)

    costs = [nats(*pair) for pair in zip(reference, pieces, strict=True)]
    rows: list[dict[str, Any]] = [{"engine": "transformers", "bits_per_byte": bits(costs)}]
    print(f"{count} tokens, {size} bytes\n{rows[0]}", flush=True)
    for each in options:
        costs, same, divergences = [], 0, []
        found = by_stoker(model, pieces, each)
        for expected, scores, piece in zip(reference, found, pieces, strict=True):
            costs.append(nats(scores, piece))
            same += int((scores.argmax(-1) == expected.argmax(-1)).sum())
            wide = expected.double()
            divergences.append((wide.exp() * (wide - scores)).sum(-1))
        divergence = torch.cat(divergences)
        rows.append(
            {
                "engine": "stoker",
                **each,
                "bits_per_byte": bits(costs),
                "same_next_token": round(same / count, 5),
                "mean_kl_nats": float(f"{divergence.mean():.3g}"),
                "largest_kl_nats": float(f"{divergence.max():.3g}"),
            }
        )
        print(rows[-1], flush=True)
    return rows


def option_set(text: str) -> dict[str, str]:
    """ "dtype=float32,quantization=llm_int8" as keyword arguments of `LLM`."""
    return dict(part.split("=", 1) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument(
        "--options",
        type=option_set,
        nargs="+",
        default=[{"dtype": name} for name in ("float32", "bfloat16", "int8")]
        + [{"quantization": "llm_int8"}],
        help="option sets, each a list of NAME=VALUE with commas between",
    )
    parser.add_argument("--bytes", type=int, default=TEXT.stat().st_size, help="of the text")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = measure(args.model, args.options, args.bytes)
    if args.json:
        found = {**about("torch", "transformers"), "model": args.model.name, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
