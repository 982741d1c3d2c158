"""How long many short prompts, given at once, wait for the first token of any of them.

    python benchmarks/queueing.py [--counts 1000 10000 100000] [--threads 2]

On stoker-tiny, prompts of 8 to 24 random token ids, one output token each after the first step.
Prints seconds to the first step's end, and per 1,000 prompts, which stays flat if nothing is
quadratic; then the same for text prompts, which are tokenised first.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time

from stoker import LLM, SamplingParams


class FirstStepDone(Exception):  # noqa: N818  # nothing went wrong
    """Raised once the first step is done."""


def first_token(llm: LLM, prompts: list[list[int]] | list[str]) -> float:
    engine = llm.engine
    step = engine.step

    def once() -> None:
        nonlocal end
        step()
        end = time.perf_counter()
        raise FirstStepDone

    engine.step = once  # type: ignore[assignment,method-assign]
    end = start = time.perf_counter()
    with contextlib.suppress(FirstStepDone):
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    engine.step = step  # type: ignore[method-assign]
    engine.abort_all()
    return end - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    rng = random.Random(0)
    with LLM(threads=args.threads) as llm:
        llm.generate("hello", SamplingParams(max_tokens=2))
        for kind in ("token ids", "text"):
            for count in args.counts:
                ids = [
                    [rng.randrange(3000) for _ in range(rng.randint(8, 24))] for _ in range(count)
                ]
                prompts = (
                    ids if kind == "token ids" else [f"Row {n}: what is it?" for n in range(count)]
                )
                seconds = first_token(llm, prompts)
                print(
                    f"{kind:10} {count:8,} prompts: first token after {seconds:6.2f} s, "
                    f"{seconds / count * 1e6:5.0f} us per prompt",
                    flush=True,
                )


if __name__ == "__main__":
    main()
