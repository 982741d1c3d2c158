"""How fast rows pass through a job whose model answers at once, and what each stage takes.

    python benchmarks/jobs.py [--rows 100000] [--ordered] [--stages]

Prints rows per second through `run_job` from file to file, the growth of peak memory between a
tenth of the rows and all, and, with --stages, the processor time of each stage on its own.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stoker.config import EnginePlan
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import CompletionOutput, Request, RequestOutput
from stoker.engine.text.tokenizer import TextCodec
from stoker.job.job import JobSettings, prepare_job, run_job
from stoker.job.journal import Journal, encoded
from stoker.job.prefetch import BATCH, Encoder
from stoker.job.sources import open_source

MODEL = Path(__file__).parent.parent / "stoker" / "shipped" / "stoker-tiny"
WORDS = ["stage", "mother", "show", "river", "paper", "light", "green", "seven", "house"]


@dataclass
class AnswersAtOnce:
    """An engine that has an answer to every request with the next step."""

    scheduler: Any = field(default_factory=lambda: SimpleNamespace(max_context=2048))
    waiting: list[Request] = field(default_factory=list)
    seconds: float = 0.0

    def require(self, task: str) -> None:
        pass

    def check(self, params: SamplingParams) -> None:
        pass

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def cancel(self, request_id: str) -> None:
        pass

    def step(self) -> list[RequestOutput]:
        begun = time.perf_counter()
        some, self.waiting = self.waiting[:256], self.waiting[256:]
        out = [
            RequestOutput(
                one.id,
                one.prompt,
                list(one.prompt_token_ids),
                [CompletionOutput(0, "an answer of some words", [1, 2, 3, 4, 5], "stop")],
                True,
            )
            for one in some
        ]
        self.seconds += time.perf_counter() - begun
        return out


class FakeLLM:
    """As much of `LLM` as a job needs."""

    def __init__(self) -> None:
        self.plan = EnginePlan(
            dtype="float32",
            quantization="none",
            device="cpu",
            threads=1,
            attention_backend="reference",
            overlap=False,
            cuda_graphs=False,
            kv_dtype="float32",
            block_size=16,
            num_blocks=1,
            cache_memory=0,
            prefix_cache=True,
            max_batch_tokens=512,
            step_time=0.0,
            max_running=256,
            max_context=1024,
            policy="fcfs",
            seed=0,
        )
        self.engine = AnswersAtOnce()
        self.text = TextCodec(MODEL)


def make_input(path: Path, rows: int) -> None:
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(rows):
            prompt = f"Say this again: {' '.join(rng.choices(WORDS, k=8))} {number}"
            file.write(json.dumps({"prompt": prompt, "id": number}) + "\n")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(folder: Path, rows: int, ordered: bool) -> None:
    source, target = folder / f"{rows}.jsonl", folder / f"{rows}.out.jsonl"
    make_input(source, rows)
    settings = JobSettings(source, target, SamplingParams(temperature=0), ordered=ordered)
    begun, used = time.perf_counter(), time.process_time()
    report = prepare_job(settings)
    prepared = time.perf_counter() - begun
    llm: Any = FakeLLM()
    llm.text.encode_chat([{"role": "user", "content": "warm"}])
    begun = time.perf_counter()
    run_job(llm, settings, report, lambda report: None)
    seconds = time.perf_counter() - begun
    assert report.rows == rows
    print(
        f"{rows} rows: {rows / seconds:.0f} rows/s ({seconds:.2f} s, and {prepared:.2f} s to "
        f"prepare; {time.process_time() - used:.2f} s of processor time), peak {peak():.0f} MiB"
    )


def stages(folder: Path, rows: int) -> None:
    source = folder / "stages.jsonl"
    make_input(source, rows)
    llm: Any = FakeLLM()
    encoder = Encoder(llm, JobSettings(source, folder / "out.jsonl", SamplingParams(temperature=0)))
    encoder.encode([])
    read: list[Any] = []
    ready: list[Any] = []
    journal = Journal(folder / "journal.jsonl", 0)
    result = {"row": 1, "status": "done", "text": "an answer of some words", "prompt_tokens": 30}

    def template() -> None:
        for row in read:
            llm.text.render_chat([{"role": "user", "content": row.fields["prompt"]}])

    def encode() -> None:
        for at in range(0, rows, BATCH):
            ready.extend(encoder.encode(read[at : at + BATCH]))

    def write() -> None:
        for row in read:
            journal.append(encoded({**row.fields, "result": result}))
        journal.close()

    def engine() -> None:
        for one in ready:
            llm.engine.add(Request("x", tuple(one.ids), SamplingParams()))
        while llm.engine.waiting:
            llm.engine.step()

    work: dict[str, Callable[[], Any]] = {
        "read": lambda: read.extend(open_source(source).rows()),
        "template": template,
        "template and tokenise": encode,
        "engine": engine,
        "write": write,
    }
    for name, do in work.items():
        begun = time.perf_counter()
        do()
        print(f"  {name:<22} {(time.perf_counter() - begun) / rows * 1e6:6.1f} us a row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ordered", action="store_true")
    parser.add_argument("--stages", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.stages:
            stages(Path(folder), args.rows)
            return
        run(Path(folder), args.rows // 10, args.ordered)
        run(Path(folder), args.rows, args.ordered)


if __name__ == "__main__":
    main()
