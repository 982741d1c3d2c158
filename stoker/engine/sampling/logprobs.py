"""Log-probabilities of drawn tokens and of prompts, with the likeliest tokens beside them.

They are the log-softmax of the model's raw logits in float32, before any parameter acts. Each
row is computed by itself, so it has the same bits in any company. Called by the sampler
and the runner.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from stoker.engine.sampling.controls import ScoreRange, TokenLogprobs

CHUNK_LOGITS = 1 << 22  # logits of prompts at a time; 16 MiB in float32


def raw_logprobs(logits: Tensor) -> Tensor:
    """Log-softmax (R, V) float32 of logits (R, V) in any dtype."""
    return logits.log_softmax(-1, dtype=torch.float32)


def look_up(logprobs: Tensor, tokens: Seq[int], top: Seq[int]) -> list[TokenLogprobs]:
    """For each row of logprobs (R, V), its token's entry and those of its `top` likeliest."""
    chosen = torch.tensor(tokens, device=logprobs.device)[:, None]
    value = logprobs.gather(-1, chosen)
    ids = torch.arange(logprobs.shape[1], device=logprobs.device)
    rank = 1 + ((logprobs > value) | ((logprobs == value) & (ids < chosen))).sum(-1)
    values, ranks = value[:, 0].tolist(), rank.tolist()
    found = [
        TokenLogprobs([token], [one], [place])
        for token, one, place in zip(tokens, values, ranks, strict=True)
    ]
    wanted = [row for row, count in enumerate(top) if count]
    if wanted:
        which = torch.tensor(wanted, device=logprobs.device)
        part = logprobs if len(wanted) == len(top) else logprobs[which]
        likeliest = _likeliest(part, [top[row] for row in wanted])
        for row, (best, best_values) in zip(wanted, likeliest, strict=True):
            entry = found[row]
            for place, (token, one) in enumerate(zip(best, best_values, strict=True), 1):
                if token != tokens[row]:
                    entry.ids.append(token)
                    entry.logprobs.append(one)
                    entry.ranks.append(place)
    return found


def _likeliest(logprobs: Tensor, top: list[int]) -> list[tuple[list[int], list[float]]]:
    """Ids and values of each row's `top` likeliest tokens, best first, ties by id.

    torch.topk does not say which of equal values it takes, so just the least value is had
    from it; all that reach it come to the host and are ranked there.
    """
    best = logprobs.topk(max(top), dim=-1).values
    last = torch.tensor(top, device=logprobs.device)[:, None] - 1
    reach = logprobs >= best.gather(-1, last)
    rows, ids = (part.cpu().numpy() for part in reach.nonzero(as_tuple=True))
    values = logprobs[reach].cpu().numpy()
    order = np.lexsort((ids, -values, rows))
    ids, values = ids[order], values[order]
    starts = np.searchsorted(rows, np.arange(len(top)))
    return [
        (ids[start : start + count].tolist(), values[start : start + count].tolist())
        for start, count in zip(starts.tolist(), top, strict=True)
    ]


def score_prompts(
    states: Tensor, head: Callable[[Tensor], Tensor], ranges: Seq[ScoreRange], vocab: int
) -> None:
    """Append the log-probabilities of the targets to their prompts' scores.

    The logits are made and looked up a few positions at a time. No tensor has more than
    max(CHUNK_LOGITS, 2 * vocab) elements, however long the prompts are, and at most six of
    that size exist at once: the logits, their log-softmax in float32, and some of truth values.

    Args:
        states: (S, D) final hidden states, those of all ranges one after the other.
        head: makes logits (rows, vocab) of states (rows, D).
        ranges: what each stretch of states scores.
        vocab: size of the vocabulary.
    """
    owners = [one.scores for one in ranges for _ in one.targets]
    targets = [token for one in ranges for token in one.targets]
    rows = max(2, CHUNK_LOGITS // vocab)
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        logprobs = raw_logprobs(head(states[part]))
        top = [scores.top for scores in owners[part]]
        for scores, found in zip(owners[part], look_up(logprobs, targets[part], top), strict=True):
            scores.found.append(found)
