"""How fast is a layer of experts, beside the loop over experts and the machine's limit?

    python benchmarks/experts.py [--experts 16] [--active 2] [--hidden 768] [--size 768]
                                 [--threads 2] [--rounds 15] [--json FILE]

A layer runs 1, 32 and 512 rows that a router sent at random, as float32, as float32 with weights in
2 bytes, and as int8, each beside the loop that defines it. Several layers take turns, so weights
come from memory, as they do in a model. A figure is the best of all rounds, in which the ways
take turns. Times are those of the clock, or, with one thread, of the processor, which other loads
on the machine touch less.

The limit of a layer is the larger of two times: to read the weights of the experts that are taken,
at the rate at which the threads read memory, and to multiply by them, at the rate of a packed
dense product of 512 rows in the same arithmetic. Both are measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from workloads import Clock, about, clock_of, read_rate, seconds_of

from stoker.ops.experts import ExpertWeights, ReferenceExperts
from stoker.ops.experts_int8 import NativeInt8Experts
from stoker.ops.experts_native import NativeExperts
from stoker.ops.int8 import prepare_int8, quantize_rows
from stoker.ops.linear import NativeLinear
from stoker.ops.routing import Routes, Routing, route

ROWS = (1, 32, 512)
BYTES = {"float32": 4, "bf16 in 2 bytes": 2, "int8": 1}
MEMORY = 300e6  # bytes of weights that take turns


def layer(args: argparse.Namespace) -> ExpertWeights:
    up = torch.randn(args.experts, 2 * args.size, args.hidden).bfloat16().float()
    down = torch.randn(args.experts, args.hidden, args.size).bfloat16().float()
    return ExpertWeights(up / 32, down / 32, None, None, "silu", True)


def ways(args: argparse.Namespace) -> dict[str, list[Any]]:
    """Layers of each way, as many as fill the memory."""
    weights = layer(args)
    narrow = replace(weights, up=weights.up.bfloat16(), down=weights.down.bfloat16())
    makers: dict[str, Callable[[], Any]] = {
        "loop": lambda: ReferenceExperts(layer(args)),
        "float32": lambda: NativeExperts(weights),
        "bf16 in 2 bytes": lambda: NativeExperts(narrow),
        "int8": lambda: NativeInt8Experts(weights),
    }
    numbers = weights.up.numel() + weights.down.numel()
    return {
        name: [make() for _ in range(max(2, int(MEMORY / numbers / BYTES.get(name, 4))))]
        for name, make in makers.items()
    }


def run_all(layers: list[Any], x: torch.Tensor, routes: Routes) -> None:
    for layer in layers:
        layer(x, routes)


def product_rate(kind: str, args: argparse.Namespace, clock: Clock) -> float:
    """FLOP/s of a dense product of 512 rows."""
    weight = torch.randn(2 * args.size, args.hidden)
    if kind == "int8":
        product: Any = prepare_int8(*quantize_rows(weight))
    else:
        product = NativeLinear(weight if kind == "float32" else weight.bfloat16(), None)
    x = torch.randn(512, args.hidden)
    best = min(seconds_of(partial(product, x), clock) for _ in range(args.rounds))
    return 2 * 512 * weight.numel() / best


def measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    clock = clock_of(args.threads)
    layers, found = ways(args), []
    reads = read_rate(clock)
    rates = {kind: product_rate(kind, args, clock) for kind in BYTES}
    for rows in ROWS:
        x = torch.randn(rows, args.hidden)
        routes = route(torch.randn(rows, args.experts), Routing(args.experts, args.active))
        taken = len(routes.experts.unique())
        best = dict.fromkeys(layers, float("inf"))
        for _ in range(args.rounds):
            for name, own in layers.items():
                took = seconds_of(partial(run_all, own, x, routes), clock)
                best[name] = min(best[name], took / len(own))
        row: dict[str, Any] = {"rows": rows, "experts_taken": taken}
        for name, took in best.items():
            row[name] = {"us": round(took * 1e6, 1)}
            if name == "loop":
                continue
            weights = 3 * args.hidden * args.size
            read = taken * weights * BYTES[name] / reads
            multiply = 2 * rows * args.active * weights / rates[name]
            row[name] |= {
                "times_the_loop": round(best["loop"] / took, 2),
                "bound_by": "reads" if read > multiply else "products",
                "limit_us": round(max(read, multiply) * 1e6, 1),
                "share_of_limit": round(max(read, multiply) / took, 3),
            }
        found.append(row)
        print(json.dumps(row), flush=True)
    return {
        "read_gb_per_s": round(reads / 1e9, 1),
        "product_gflop_per_s": {name: round(rate / 1e9) for name, rate in rates.items()},
        "results": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("experts", 16), ("active", 2), ("hidden", 768), ("size", 768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    told = {**about("torch"), "load": [round(one, 1) for one in os.getloadavg()]}
    told |= {name: value for name, value in vars(args).items() if name != "json"}
    told |= measure(args)
    told["load_after"] = [round(one, 1) for one in os.getloadavg()]
    print({name: told[name] for name in ("read_gb_per_s", "product_gflop_per_s", "load_after")})
    if args.json:
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
