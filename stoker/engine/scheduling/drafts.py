"""Drafts: tokens that may come next, for the model to confirm several of them in one step.

A draft stands at the end of `Sequence.tokens` for the length of one step. The step draws the
model's own token at each drafted position, and a draft is kept while it equals that token. Since
a draw is a function of (seed, position), output with and without drafts is the same, token for
token; a bad proposer costs time only.

    tokens before    5 8 2            the keys and values of 2 are missing
    drafts           7 7 1
    the step         2 7 7 1          computes 4 tokens, draws at each of them
    drawn            7 7 9 4          9 is not 1: the draft is wrong, and 4 follows from it
    tokens after     5 8 2 7 7 9      the keys and values of 9 are missing

Leviathan et al. (2023) accept drafts by chance such that the distribution stays; equality keeps
the tokens as well, and accepts a draft that is itself certain as often.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

from stoker.engine.scheduling.sequence import Sequence, finish_reason
from stoker.engine.scheduling.step import LAST_TOKEN


class Proposer(Protocol):
    """Guesses how sequences go on."""

    def propose(self, sequences: Seq[Sequence], limits: Seq[int]) -> Seq[Seq[int]]:
        """For each of `sequences` the tokens that may follow its own, none or more.

        The tokens are ids of the vocabulary, so a guess must leave out what stands for vectors in
        a prompt (`FIRST_VECTOR_ID` and above). Those beyond its entry of `limits`, 1 or more, are
        left out. The sequences stay as they are.
        """


def propose(
    proposer: Proposer, running: Seq[Sequence], max_batch_tokens: int
) -> dict[int, Seq[int]]:
    """Drafts by serial number, as many as a step has room for beside a token of each that runs.

    Only sequences that decode, and whose newest token is known, get some. There are none while a
    prompt is computed, which takes what the decodes leave of the step.
    """
    spare = max_batch_tokens - len(running)
    if spare <= 0 or any(seq.remaining > 1 for seq in running):
        return {}
    chosen, limits = [], []
    for seq in running:
        # the token after the last draft is drawn as well
        limit = min(spare, seq.length_limit - len(seq.tokens) - 1)
        if seq.draftable and seq.generated and seq.tokens[-1] != LAST_TOKEN and limit > 0:
            chosen.append(seq)
            limits.append(limit)
    found: dict[int, Seq[int]] = {}
    if chosen:
        proposed = proposer.propose(chosen, limits)
        for seq, limit, tokens in zip(chosen, limits, proposed, strict=True):
            found[seq.serial] = tokens[: min(limit, spare)]
            spare -= len(found[seq.serial])
    return found


def accept(seq: Sequence, drawn: Seq[int], eos_ids: frozenset[int]) -> int:
    """Replace the drafts of `seq` by what was `drawn` at their positions and after the last.

    Tokens are taken up to the first that is no draft, or that ends the sequence. The keys and
    values behind it are those of other tokens, so they no longer count as computed. Returns how
    many drafts were right.
    """
    drafts = seq.drop_drafts()
    right = 0
    for draft, token in zip((*drafts, None), drawn, strict=True):
        seq.draw(token)
        if token != draft or finish_reason(seq, eos_ids):
            break
        right += 1
    seq.computed = len(seq.tokens) - 1
    return right
