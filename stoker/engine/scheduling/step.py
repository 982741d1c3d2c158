"""A step: which sequences run how many tokens now, over which blocks.

Plain data: printable, saved as JSON, and enough on its own to be run again (`replay.py`).
Made by the scheduler, read by the batch builder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from stoker.engine.blocks.cache_pool import Tables

NOT_SCORED = (0, 0)
LAST_TOKEN = -1  # in `StepItem.tokens` and `Sequence.tokens`: the last token drawn in this slot


class StepItem(NamedTuple):
    """One sequence's part of a step.

    Attributes:
        sequence: the sequence's serial number.
        slot: the sequence's place on the device, its own while it runs.
        start: absolute position of the first of `tokens`.
        tokens: the token ids whose keys and values this step computes. The last may be
            `LAST_TOKEN`: the step before is still drawing it, and the device has it by slot.
        tables: a block table for each cache group, covering positions 0 to end - 1. Position p is
            in entry p // block_size; entries behind a group's window are -1 (`UNUSED`).
        draws: sample indices to draw from the last position's logits; empty when more of the
            prompt is still to come.
        states: the slice of `tokens` whose final hidden states are pooled; (0, 0) for none.
        scored: the slice of `tokens` whose logits score the prompt; (0, 0) for none.
        verify: how many of the last `tokens` are drafts. The one sample of `draws` is then drawn
            at the last verify + 1 positions, at each as if the drafts before it were its tokens.
    """

    sequence: int
    slot: int
    start: int
    tokens: tuple[int, ...]
    tables: Tables
    draws: tuple[int, ...]
    states: tuple[int, int] = (0, 0)
    scored: tuple[int, int] = NOT_SCORED
    verify: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def draws_by_row(self) -> list[int]:
        """How many tokens are drawn from each row of logits of an item that draws."""
        return [1] * (1 + self.verify) if self.verify else [len(self.draws)]


@dataclass(frozen=True)
class Step:
    """What one forward pass computes.

    Attributes:
        copies: blocks to copy before anything is written: (cache group, from, to). Of a group of
            states, places to copy: a fork's from its sibling's slot, a snapshot to a slot.
        saves: states to copy once the step is computed, as in `copies`: slots to snapshots.
    """

    number: int
    items: tuple[StepItem, ...] = ()
    copies: tuple[tuple[int, int, int], ...] = ()
    admitted: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()
    saves: tuple[tuple[int, int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(len(item.tokens) for item in self.items)

    @property
    def num_logits(self) -> int:
        """Rows of logits that tokens are drawn from."""
        return sum(1 + item.verify for item in self.items if item.draws)

    @property
    def num_decodes(self) -> int:
        """The tokens of sequences that have no other token to compute, and their drafts."""
        return sum([count for item in self.items if (count := 1 + item.verify) == len(item.tokens)])

    def last_tokens(self, drawn: Seq[int]) -> dict[int, int]:
        """The last token of each slot that draws in this step, given its draws in order.

        Of several samples of one prompt, the first belongs to the sequence in the slot:

            items   slot 4, draws (0, 1, 2)    slot 0, no draws    slot 1, draws (0,)
            drawn   [70, 71, 72,                                   55]
            last    {4: 70, 1: 55}
        """
        last, taken = {}, 0
        for item in self.items:
            if item.draws:
                last[item.slot] = drawn[taken]
                taken += len(item.draws) + item.verify
        return last

    def resolved(self, last_tokens: Mapping[int, int]) -> Step:
        """Replace each `LAST_TOKEN` by the token that `last_tokens` has for its slot."""
        items = tuple(
            item._replace(tokens=(*item.tokens[:-1], last_tokens[item.slot]))
            if item.tokens[-1] == LAST_TOKEN
            else item
            for item in self.items
        )
        return replace(self, items=items)

    def to_json(self) -> str:
        """One line of JSON, the inverse of `from_json`."""
        fields = {**vars(self), "items": [item._asdict() for item in self.items]}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Step:
        """Raises ValueError (or KeyError, TypeError) if `line` is no saved step."""
        fields = json.loads(line)
        items = tuple(
            StepItem(
                item["sequence"],
                item["slot"],
                item["start"],
                tuple(item["tokens"]),
                tuple(map(tuple, item["tables"])),
                tuple(item["draws"]),
                (item["states"][0], item["states"][1]),
                (item["scored"][0], item["scored"][1]),
                item["verify"],
            )
            for item in fields.pop("items")
        )
        copies, saves = (
            tuple((group, src, dst) for group, src, dst in fields.pop(name, ()))
            for name in ("copies", "saves")
        )
        plain = {name: tuple(fields[name]) for name in ("admitted", "preempted")}
        return cls(fields["number"], items, copies, saves=saves, **plain)

    def __str__(self) -> str:
        lines = [f"step {self.number}: {len(self.items)} sequences, {self.num_tokens} tokens"]
        if self.preempted:
            lines.append(f"  preempted {list(self.preempted)}")
        if self.copies:
            lines.append(f"  copies {list(self.copies)}")
        if self.saves:
            lines.append(f"  saves {list(self.saves)}")
        for item in self.items:
            kind = "decode" if len(item.tokens) - item.verify == 1 else "prefill"
            lines.append(
                f"  #{item.sequence} {kind} [{item.start}:{item.end}]"
                + "".join(f" blocks {list(table)}" for table in item.tables)
                + (f" draws {list(item.draws)}" if item.draws else "")
                + (f" states {list(item.states)}" if item.states[1] else "")
                + (f" scored {list(item.scored)}" if item.scored[1] else "")
                + (f" verifies {item.verify}" if item.verify else "")
            )
        return "\n".join(lines)


@dataclass
class PlannedStep:
    """A step in the making; `budget` is how many more tokens it may have."""

    number: int
    budget: int
    items: list[StepItem] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    saves: list[tuple[int, int, int]] = field(default_factory=list)

    def done(self) -> Step:
        """The step, to which nothing is added any more."""
        return Step(
            self.number,
            tuple(self.items),
            tuple(self.copies),
            tuple(self.admitted),
            tuple(self.preempted),
            tuple(self.saves),
        )
