"""Log-probabilities of drawn tokens and of prompts, with the likeliest tokens beside them.

They are the log-softmax of the model's raw logits in float32, before any parameter acts. Each
row is computed by itself, so it has the same bits in any company.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stoker.engine.sampling.controls import ScoreRange, TokenLogprobs
from stoker.ops.upload import upload

CHUNK_LOGITS = 1 << 22  # logits of prompts at a time; 16 MiB in float32


def raw_logprobs(logits: Tensor) -> Tensor:
    """Log-softmax (R, V) float32 of logits (R, V) in any dtype."""
    return logits.log_softmax(-1, dtype=torch.float32)


class LookUp(NamedTuple):
    """What was looked up in R rows of log-probabilities, of which W want the likeliest as well.

    Attributes:
        values, ranks: (R,) of the rows' own tokens; ranks count from 1.
        ids, best: (W, K) the likeliest tokens and their values, best first.
    """

    values: Tensor
    ranks: Tensor
    ids: Tensor
    best: Tensor

    def named(self, tokens: Seq[int], top: Seq[int]) -> list[TokenLogprobs]:
        """For each row the entry of its token and those of its `top` likeliest; on the host."""
        found = [
            TokenLogprobs([token], [value], [rank])
            for token, value, rank in zip(
                tokens, self.values.tolist(), self.ranks.tolist(), strict=True
            )
        ]
        wanted = [row for row, count in enumerate(top) if count]
        likeliest = zip(self.ids.tolist(), self.best.tolist(), strict=True)
        for row, (ids, values) in zip(wanted, likeliest, strict=True):
            entry, count = found[row], top[row]
            pairs = zip(ids[:count], values[:count], strict=True)
            for rank, (token, value) in enumerate(pairs, 1):
                if token != tokens[row]:
                    entry.ids.append(token)
                    entry.logprobs.append(value)
                    entry.ranks.append(rank)
        return found


def look_up(logprobs: Tensor, tokens: Tensor, top: Seq[int]) -> LookUp:
    """The entries of `tokens` (R,) and of the likeliest tokens, where logprobs (R, V) are.

    top (R,) says how many of the likeliest each row wants; 0 for none.
    """
    chosen = tokens[:, None]
    value = logprobs.gather(-1, chosen)
    ids = torch.arange(logprobs.shape[1], device=logprobs.device)
    rank = 1 + ((logprobs > value) | ((logprobs == value) & (ids < chosen))).sum(-1)
    wanted = np.flatnonzero(np.array(top, np.int64))
    if len(wanted) == len(top):
        part = logprobs
    else:
        part = logprobs[upload([wanted], logprobs.device)[0]]
    return LookUp(value[:, 0], rank, *likeliest(part, max(top, default=0)))


def likeliest(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Ids and values (R, count) of each row's likeliest tokens, best first, ties by id."""
    if not count or not len(logprobs):
        return logprobs.new_empty(len(logprobs), count, dtype=torch.int64), logprobs[:, :count]
    if logprobs.device.type == "cpu":
        return _likeliest_on_cpu(logprobs, count)
    return likeliest_by_keys(logprobs, count)


def likeliest_by_keys(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`likeliest` without waiting for the device, for float32.

    torch.topk does not say which of equal values it takes. So it gets integers that differ: the
    bits of the value, which count like the value once negative ones are turned round, and below
    them the id, counted down:

        value -1.5, id 7    bits bfc00000 -> c03fffff    key c03fffff fffffff8
    """
    bits = (logprobs + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    last = (1 << 32) - 1
    keys = (order << 32) | (last - torch.arange(logprobs.shape[1], device=logprobs.device))
    ids = last - (keys.topk(count, dim=-1).values & last)
    return ids, logprobs.gather(-1, ids)


def _likeliest_on_cpu(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`likeliest`: the least of the values is had from topk, and what reaches it is ranked."""
    reach = logprobs >= logprobs.topk(count, dim=-1).values[:, -1:]
    rows, ids = (part.numpy() for part in reach.nonzero(as_tuple=True))
    values = logprobs[reach].numpy()
    order = np.lexsort((ids, -values, rows))
    starts = np.searchsorted(rows, np.arange(len(logprobs)))
    first = order[starts[:, None] + np.arange(count)]
    return torch.from_numpy(ids[first]), torch.from_numpy(values[first])


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
        (which,) = upload([np.array(targets[part], np.int64)], logprobs.device)
        looked = LookUp(*(one.cpu() for one in look_up(logprobs, which, top)))
        for scores, found in zip(owners[part], looked.named(targets[part], top), strict=True):
            scores.found.append(found)
