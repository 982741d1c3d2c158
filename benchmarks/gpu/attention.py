"""How fast attention is alone, beside what the device copies: decode in TB/s, prefill in TFLOP/s.

    python benchmarks/gpu/attention.py                   decode, shared prefixes and prefill
    python benchmarks/gpu/attention.py --tune            which tiles are the fastest for decodes
    python benchmarks/gpu/attention.py --smoke           tiny, on a CPU too (TRITON_INTERPRET=1)

A figure is the best of several replays of a CUDA graph that holds the call for several layers,
each with a cache of its own, so that the second-level cache helps none of them. Bytes are the
keys and values that sequences see, each once for a sequence; sharing prefixes can therefore pass
what memory gives. FLOPs of a prefill are those of the causal half.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stoker.ops.attention import Attention, RaggedLayout, ReferenceAttention, Scores
from stoker.ops.attention_varlen import VarlenAttention, varlen_serves
from stoker.ops.kv_pages import FP8, Fp8Pages, Pages
from stoker.ops.triton.attention import TritonAttention
from stoker.ops.triton.tuning import Launch, Tuning

HEADS, KV_HEADS, DIM, PAGE = 32, 8, 128, 16
DECODES = ((256, 1024), (8, 8192), (64, 1024), (256, 512), (64, 4096), (128, 4096), (64, 8192))
SHARED = ((256, 1024, 256), (256, 16384, 256))  # sequences, tokens in common, tokens of their own
PREFILLS = (512, 1024, 2048, 4096, 8192, 16384)
COLD = 1 << 30  # bytes of caches to go round
CHECKED = 2048 * 2048  # pairs of a query and a key of a sequence that the reference is given


@dataclasses.dataclass
class Case:
    """A step, with queries and the caches of some layers."""

    layout: RaggedLayout
    q: Tensor
    layers: list[tuple[Pages, Pages]]


def make_case(
    device: torch.device, counts: list[int], contexts: list[int], common: int, fp8: bool, cold: int
) -> Case:
    """Random caches in shuffled blocks; the first `common` tokens are in the same for all."""
    widths = [-(-n // PAGE) for n in contexts]
    first = common // PAGE
    blocks = iter(np.random.default_rng(0).permutation(sum(widths)))
    prefix = [next(blocks) for _ in range(first)]
    tables = np.zeros((len(contexts), max(widths)), np.int64)
    for row, width in zip(tables, widths, strict=True):
        row[:first] = prefix
        row[first:width] = [next(blocks) for _ in range(width - first)]
    used = first + sum(width - first for width in widths)
    ids = {int(block): i for i, block in enumerate(sorted(np.unique(tables)))}
    tables = np.vectorize(ids.__getitem__, otypes=[np.int64])(tables)
    shape = (used + 1, PAGE, KV_HEADS, DIM)
    size = 2 * torch.Size(shape).numel() * (1 if fp8 else 2)
    layers = [
        (_pages(shape, fp8, device), _pages(shape, fp8, device)) for _ in range(-(-cold // size))
    ]
    starts = [0, *itertools.accumulate(counts)]
    layout = RaggedLayout(starts, contexts, torch.from_numpy(tables).to(device), PAGE, tables)
    q = torch.randn(starts[-1], HEADS, DIM, device=device, dtype=torch.bfloat16)
    return Case(layout, q, layers)


def _pages(shape: tuple[int, ...], fp8: bool, device: torch.device) -> Pages:
    x = torch.randn(shape, device=device, dtype=torch.bfloat16)
    return Fp8Pages(x.to(FP8), torch.ones(shape[2], device=device)) if fp8 else x


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The least time of one call, on a GPU replayed from a graph."""
    if not torch.cuda.is_available():
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return min(times)


def copy_rate(device: torch.device, size: int, repeats: int) -> float:
    """TB/s of a copy, read and written bytes together."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), repeats) / 1e12


def per_layer(attention: Attention, case: Case, repeats: int) -> float:
    """Seconds of one layer; the plan is made before."""
    plan, scores = attention.plan(case.layout), Scores(DIM**-0.5)

    def work() -> None:
        for k, v in case.layers:
            attention.run(plan, case.q, k, v, scores)

    return seconds(work, repeats) / len(case.layers)


def bytes_seen(case: Case, fp8: bool) -> int:
    return sum(case.layout.context_lens) * 2 * KV_HEADS * DIM * (1 if fp8 else 2)


def error(attention: Attention, case: Case) -> float:
    """The greatest difference from the reference, for some sequences of the first layer; NaN if
    even one would be too large for it."""
    k, v = case.layers[0]
    out = attention.run(attention.plan(case.layout), case.q, k, v, Scores(DIM**-0.5))
    starts, contexts = case.layout.query_starts, case.layout.context_lens
    if starts[1] * contexts[0] > CHECKED:
        return math.nan
    end = min(len(contexts), 4)
    layout = dataclasses.replace(
        case.layout,
        query_starts=starts[: end + 1],
        context_lens=contexts[:end],
    )
    rows = layout.query_starts[end]
    expected = ReferenceAttention().run(layout, case.q[:rows], k, v, Scores(DIM**-0.5))
    return float((out[:rows] - expected).abs().max())


def decodes(args: argparse.Namespace, kinds: dict[str, Attention], shapes, results) -> None:
    for fp8, (batch, context) in itertools.product((False, True), shapes):
        case = make_case(args.device, [1] * batch, [context] * batch, 0, fp8, args.cold)
        for name, attention in kinds.items():
            if fp8 and name == "varlen":
                continue
            rate = bytes_seen(case, fp8) / per_layer(attention, case, args.repeats) / 1e12
            row = {"case": "decode", "cache": "fp8" if fp8 else "bf16", "batch": batch}
            report(results, row | {"context": context, "by": name, "TB/s": rate}, attention, case)


def shared(args: argparse.Namespace, shapes, results) -> None:
    for fp8, (batch, common, own) in itertools.product((False, True), shapes):
        case = make_case(args.device, [1] * batch, [common + own] * batch, common, fp8, args.cold)
        for name, tuning in (("shared", Tuning()), ("alone", Tuning(shared=None))):
            attention = TritonAttention(args.device, tuning)
            rate = bytes_seen(case, fp8) / per_layer(attention, case, args.repeats) / 1e12
            row = {"case": "prefix", "cache": "fp8" if fp8 else "bf16", "batch": batch}
            row |= {"common": common, "own": own, "by": name, "TB/s": rate}
            report(results, row, attention, case)


def prefills(args: argparse.Namespace, kinds: dict[str, Attention], lengths, results) -> None:
    for length in lengths:
        count = max(1, args.prefill_tokens // length)
        case = make_case(args.device, [length] * count, [length] * count, 0, False, 1)
        for name, attention in kinds.items():
            flops = count * 4 * HEADS * DIM * length * (length + 1) // 2
            rate = flops / per_layer(attention, case, args.repeats) / 1e12
            row = {"case": "prefill", "batch": count, "context": length, "by": name}
            report(results, row | {"TFLOP/s": rate}, attention, case)


def tune(args: argparse.Namespace, shapes, results) -> None:
    """Tiles of decodes, then how finely a step is cut with the best of them."""
    for fp8, (batch, context) in itertools.product((False, True), shapes):
        case = make_case(args.device, [1] * batch, [context] * batch, 0, fp8, args.cold)

        def rate(tuning: Tuning, case: Case = case, fp8: bool = fp8) -> float:
            attention = TritonAttention(args.device, tuning)
            return bytes_seen(case, fp8) / per_layer(attention, case, args.repeats) / 1e12

        tiles = [
            Launch(rows=16, keys=keys, warps=warps, stages=stages)
            for keys, warps, stages in itertools.product((32, 64, 128), (2, 4, 8), (3, 5, 7))
        ]
        best, found = Tuning(), 0.0
        for launch in tiles[: args.most_tiles]:
            value = rate(Tuning(narrow=launch))
            row = {"case": "tune", "cache": "fp8" if fp8 else "bf16", "batch": batch}
            row |= {"context": context, **dataclasses.asdict(launch), "TB/s": value}
            report(results, row)
            if value > found:
                best, found = Tuning(narrow=launch), value
        for waves, piece in itertools.product((4, 8, 16, 32, 64), (128, 256, 512)):
            row = {"case": "cut", "cache": "fp8" if fp8 else "bf16", "batch": batch}
            row |= {"context": context, "waves": waves, "piece": piece}
            cut = dataclasses.replace(best, waves=waves, piece=piece)
            report(results, row | {"TB/s": rate(cut)})
            if args.smoke:
                break


def report(results, row, attention: Attention | None = None, case: Case | None = None) -> None:
    if attention is not None and case is not None:
        row["error"] = error(attention, case)
    results.append(row)
    shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print("  ".join(shown), flush=True)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="try the sizes of tiles instead")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args(argv)
    args.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.device.type == "cpu" and not args.smoke:
        parser.error("torch sees no GPU; --smoke runs tiny shapes anywhere")
    args.cold, args.prefill_tokens, args.most_tiles = COLD, 16384, None
    decode_shapes, shared_shapes, lengths = DECODES, SHARED, PREFILLS
    if args.smoke:
        args.repeats, args.cold, args.prefill_tokens, args.most_tiles = 1, 1, 40, 1
        decode_shapes, shared_shapes, lengths = ((2, 40),), ((3, 64, 20),), (40,)
    torch.manual_seed(0)
    results: list[dict] = []
    name = torch.cuda.get_device_name() if args.device.type == "cuda" else "cpu, interpreted"
    report(results, {"device": name, "torch": torch.__version__})
    report(results, {"copy TB/s": copy_rate(args.device, args.cold, args.repeats)})
    if args.tune:
        tune(args, decode_shapes[:2], results)
    else:
        kinds: dict[str, Attention] = {"triton": TritonAttention(args.device)}
        if varlen_serves(args.device, torch.bfloat16):
            kinds["varlen"] = VarlenAttention()
        decodes(args, kinds, decode_shapes, results)
        shared(args, shared_shapes, results)
        prefills(args, kinds, lengths, results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
