"""What the features of the sampler cost per step, alone, on random logits.

64 rows over a vocabulary of 151,936, each with 500 tokens of prompt and 500 of output. Every line
is the median time of `sample` where all rows use the feature.

After these, the time to score a prompt of 256 tokens by the number of logits made at once.

    python benchmarks/sampling.py [--rows 64] [--vocab 151936] [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from stoker.engine.execution.slot_settings import SentDraws, SlotSettings
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.sampling import logprobs
from stoker.engine.sampling.controls import PromptScores, RowControls, ScoreRange
from stoker.engine.sampling.rules import make_rules
from stoker.engine.sampling.sampler import SamplingBatch, sample
from stoker.ops.linear import prepare_linear

FEATURES = {
    "greedy": {"temperature": 0},
    "temperature": {},
    "top_k=50, top_p=0.9": {"top_k": 50, "top_p": 0.9},
    "top_p=0.5": {"top_p": 0.5},
    "top_p=0.9": {"top_p": 0.9},
    "greedy, penalties": {
        "temperature": 0,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
    },
    "greedy, 3 biased": {"temperature": 0, "logit_bias": {1: 1.0, 2: 1.0, 3: 1.0}},
    "greedy, 1000 allowed": {"temperature": 0, "allowed_token_ids": range(1000)},
    "greedy, 100 bad words": {"temperature": 0, "bad_words": [[n, n + 1] for n in range(100)]},
    "greedy, own logprob": {"temperature": 0, "logprobs": 0},
    "greedy, 5 logprobs": {"temperature": 0, "logprobs": 5},
    "min_p": {"min_p": 0.05},
    "typical_p": {"typical_p": 0.9},
    "greedy, processor": {"temperature": 0, "logits_processors": [lambda outputs, logits: logits]},
}


def median_ms(work: Callable[[torch.Tensor], object], logits: torch.Tensor, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        fresh = logits.clone()
        start = time.perf_counter()
        work(fresh)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def draw(logits: torch.Tensor, batch: SamplingBatch, slots: SlotSettings) -> None:
    """A draw from each row, row r by the settings of slot r."""
    rows = range(len(logits))
    arrays = slots.update(rows, batch.settings, np.array(rows))
    sent = SentDraws(arrays.values, *map(torch.from_numpy, arrays[1:]))
    sample(logits, batch, slots.params(sent, logits.shape[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    logits = torch.randn(args.rows, args.vocab) * 3
    texts = [rng.integers(0, args.vocab, 500).tolist() for _ in range(2 * args.rows)]
    for name, wishes in FEATURES.items():
        params = SamplingParams(**{"max_tokens": 1000, **wishes})
        rules = make_rules(params, args.vocab, (), None)
        requests = [Request(str(row), (0,), params, seed=row) for row in range(args.rows)]
        batch = SamplingBatch([request.draw_settings(0) for request in requests])
        slots = SlotSettings(args.rows, logits.device, shared=True)
        if rules is not None:
            for row in range(args.rows):
                own = RowControls.make(rules, texts[row], texts[args.rows + row])
                batch.controls[row] = own
        ms = median_ms(partial(draw, batch=batch, slots=slots), logits, args.repeats)
        print(f"{name:24} {ms:8.2f} ms")
    dense = torch.zeros(args.rows, args.vocab)

    def penalise_densely(logits: torch.Tensor) -> None:
        """What penalties would cost with a count for every token of the vocabulary."""
        seen = dense > 0
        out = torch.where(logits > 0, logits / 1.1, logits * 1.1)
        out = torch.where(seen, out, logits)
        out.sub_(dense * 0.1).argmax(-1)

    print(f"{'(penalties, dense)':24} {median_ms(penalise_densely, logits, args.repeats):8.2f} ms")
    ranked = median_ms(
        lambda fresh: fresh.log_softmax(-1).sort(-1, descending=True), logits, args.repeats
    )
    print(f"{'(5 logprobs by sorting)':24} {ranked:8.2f} ms")
    score(args.vocab, args.repeats)


@torch.inference_mode()
def score(vocab: int, repeats: int) -> None:
    """Print the time of `score_prompts` for hidden states of 512."""
    weight = torch.nn.Parameter(torch.randn(vocab, 512) / 20, requires_grad=False)
    head, states = prepare_linear(weight), torch.randn(256, 512)
    prompt = tuple(torch.randint(0, vocab, (257,)).tolist())
    for bits in (20, 22, 24, 26):
        logprobs.CHUNK_LOGITS = 1 << bits

        def work(states: torch.Tensor) -> None:
            scores = PromptScores(prompt, 5, [])
            logprobs.score_prompts(states, head, [ScoreRange(scores, prompt[1:])], vocab)

        name = f"prompt scores, 2^{bits}"
        print(f"{name:24} {median_ms(work, states, repeats):8.2f} ms")


if __name__ == "__main__":
    main()
