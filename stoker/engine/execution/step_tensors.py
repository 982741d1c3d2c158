"""A step on its way to the model: flattened on the host, sent in one copy, made into tensors.

    Step --to_arrays--> StepArrays --StepArrays.send--> SentArrays --to_tensors--> StepTensors
    items               numpy, on the host              one copy                   on the device

What is sent is what the device does not have: token ids, where sequences stand, new entries of
block tables and new settings of draws. It makes the rest from what it keeps by slot
(device_slots.py) and from what is sent (ops/step_tensors.py). Three items, blocks of 4 tokens, the
slots' tables being new:

    items       slot 4: 11 12 13 at 5, draws   slot 1: LAST_TOKEN at 2, draws   slot 0: 14 15 at 0
    tokens      11 12 13                       -1                               14 15
    owners       0  0  0                        1                                2  2
    counts       3                              1                                2
    contexts     8                              3                                2
    shifts       5 (5 - 0)                     -1 (2 - 3)                       -4 (0 - 4)
    rows         2                              3                                none
    drawing      4                              1                                none
    tables       8 3                            6 idle                           5 idle
    states       tokens 0 to 2, goes on         token 3, goes on                 tokens 4, 5, fresh
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.execution.device_slots import DeviceSlots, Ints
from stoker.engine.execution.slot_settings import DrawArrays, SentDraws, SlotSettings
from stoker.engine.execution.state_arrays import StateArrays, no_tables, state_arrays
from stoker.engine.execution.step_vectors import StepVectors
from stoker.engine.request.request import DrawSettings
from stoker.engine.scheduling.step import Step
from stoker.model.step import StatePlan, StepTensors, TokenVectors
from stoker.ops.attention import RaggedLayout
from stoker.ops.rounding import ceil_div
from stoker.ops.select import Operations
from stoker.ops.step_tensors import FlatStep, PageTables
from stoker.ops.upload import upload


class SentArrays(NamedTuple):
    """What the device has of a step beside what it keeps by slot; see `StepArrays`."""

    flat: FlatStep
    rows: Tensor
    vectors: TokenVectors | None
    states: tuple[Tensor, Tensor] | None  # starts and fresh


@dataclass(frozen=True)
class StepArrays:
    """T tokens of S sequences, of which R rows go on; int64, on the host.

    Attributes:
        tokens: (T,) ids; `LAST_TOKEN` for the last one of the sequence's slot, 0 for a vector.
        owners: (T,) the sequence of each token; below 0 for padding.
        shifts: (S,) the position of a sequence's tokens less their places in `tokens`.
        slots: (S,) where the device keeps what it knows of the sequences.
        rows: (R,) places of tokens: one per item that draws, however many samples it draws, and
            one per draft before it; after these the rows whose states are pooled, or whose logits
            score prompts.
        drawing: (D,) slots of the items that draw.
        draws: settings and positions of the draws.
        counts, contexts: (S,) tokens of each sequence in the step, and with those before it.
        changes: for each cache group, what its tables on the device lack (`SlotTables.update`).
        tables: for each cache group, the block tables (S, width), unused entries its idle block.
        held_from: for each cache group, (S,) the first position whose block is held; None: 0.
        has_last: whether any token is `LAST_TOKEN`.
        vectors: what takes the place of embeddings; None for nothing.
        states: None if no layer keeps a state.
    """

    tokens: Ints
    owners: Ints
    shifts: Ints
    slots: Ints
    rows: Ints
    drawing: Ints
    draws: DrawArrays
    counts: Ints
    contexts: Ints
    changes: tuple[Ints, ...]
    tables: tuple[Ints, ...]
    held_from: tuple[Ints | None, ...]
    has_last: bool
    vectors: StepVectors | None = None
    states: StateArrays | None = None

    def send(self, slots: DeviceSlots) -> SentArrays:
        """Send what the device lacks, in one copy that nobody waits for; `slots` take their part.

        Args:
            slots: those that `to_arrays` was given.
        """
        values, *draws = self.draws
        parts: list[Seq[NDArray[Any]]] = [
            [self.tokens, self.owners, self.shifts, self.slots],
            [self.rows, self.drawing],
            self.changes,
            draws,
            self.vectors or (),
            self.states[:2] if self.states else (),
        ]
        sent = iter(upload([*chain.from_iterable(parts)], slots.device))
        flat, (rows, drawing), changes, of_draws, vectors, states = (
            [*islice(sent, len(part))] for part in parts
        )
        slots.receive(changes, drawing, SentDraws(values, *of_draws))
        return SentArrays(
            FlatStep(*flat),
            rows,
            TokenVectors(*vectors) if vectors else None,
            (states[0], states[1]) if states else None,
        )


def to_arrays(
    step: Step,
    slots: DeviceSlots,
    vectors: StepVectors | None = None,
    settings: Seq[DrawSettings] = (),
) -> StepArrays:
    """Flatten `step`, of which some tokens may be `vectors`, and note in `slots` what is new.

    Args:
        settings: of its draws; none if they are not to be made.
    """
    # by column, because going through the items in Python is what takes the time
    _, slot, first, ids, tables, draws, states, scored, verify = zip(*step.items, strict=True)
    counts = np.array([*map(len, ids)], np.int64)
    starts = np.array(first, np.int64)
    ends, contexts = np.cumsum(counts), starts + counts
    tokens = np.fromiter(chain.from_iterable(ids), np.int64, int(ends[-1]))
    if vectors is not None:
        tokens[vectors.rows] = 0
    draw = np.array([*map(bool, draws)])
    rows = ends[draw] - 1
    if any(verify):  # tokens 5 to 8 of the step, the last two drafts: rows 6 7 8
        drafts = np.array(verify)[draw].tolist()
        rows = np.concatenate(
            [np.arange(row - count, row + 1) for row, count in zip(rows, drafts, strict=True)]
        )
    parts = [part for part in (states, scored) if part.count((0, 0)) < len(part)]
    wanted = [
        np.arange(*some) + begin
        for part in parts
        for some, begin in zip(part, (ends - counts).tolist(), strict=True)
    ]
    changes = slots.update(slot, tuple(zip(*tables, strict=True)))
    slot_of = np.array(slot, np.int64)
    width = ceil_div(int(contexts.max()), slots.block_size)
    return StepArrays(
        tokens=tokens,
        owners=np.repeat(np.arange(len(counts)), counts),
        shifts=starts - (ends - counts),
        slots=slot_of,
        rows=np.concatenate([rows, *wanted]) if wanted else rows,
        drawing=slot_of[draw],
        draws=_draw_arrays(step, slots.settings, settings, slot_of[draw], contexts[draw]),
        counts=counts,
        contexts=contexts,
        changes=changes,
        tables=tuple(group.entries[slot_of, :width] for group in slots.groups),
        held_from=tuple(group.held_from(slot_of, slots.block_size) for group in slots.groups),
        has_last=bool(tokens.min() < 0),
        vectors=vectors,
        states=state_arrays(starts, ends, counts) if slots.num_states else None,
    )


def _draw_arrays(
    step: Step, slots: SlotSettings, settings: Seq[DrawSettings], drawing: Ints, positions: Ints
) -> DrawArrays:
    """Where the draws of `step` find their `settings`, and their positions.

    Args:
        drawing, positions: of the items that draw, their slots and the positions of their tokens.
    """
    columns: list[int] = drawing.tolist() if settings else []
    further: list[DrawSettings] = []
    if len(settings) > len(drawing):  # samples of a prompt, or tokens that verify drafts
        columns, where = [], list[int]()
        for item in step.items:
            samples = len(item.draws) - 1
            columns += [item.slot] * (1 + item.verify if item.draws else 0)
            where += range(item.end - item.verify, item.end + 1 if item.draws else 0)
            if samples > 0:
                more = settings[len(columns) : len(columns) + samples]
                columns += range(
                    slots.further + len(further), slots.further + len(further) + samples
                )
                further += more
                where += [item.end] * samples
        positions = np.array(where)
    return slots.update(columns, settings, positions, further)


def to_tensors(arrays: StepArrays, slots: DeviceSlots, ops: Operations) -> StepTensors:
    """The forward input of a step, its attention planned by that of `ops`."""
    sent = arrays.send(slots)
    last_tokens = slots.last_tokens if arrays.has_last else None
    cells, plans = [], []
    for group, host in enumerate(arrays.tables):
        tables = slots.groups[group].gather(sent.flat.slots, host)
        made = ops.make_inputs(sent.flat, PageTables(tables, slots.block_size), last_tokens)
        cells.append(made.cells)
        plans.append(ops.attention.plan(layout_of(arrays, group, tables, slots.block_size)))
    if not slots.groups:
        made = ops.make_inputs(sent.flat, no_tables(sent.flat), last_tokens)
    if sent.states is not None and arrays.states is not None:
        starts, fresh = sent.states
        plan = StatePlan(sent.flat.slots, starts, fresh, arrays.states.most)
        cells += [made.cells] * slots.num_states  # which nobody looks at
        plans += [plan] * slots.num_states
    return StepTensors(
        token_ids=made.tokens,
        positions=made.positions,
        cells=tuple(cells),
        sample_rows=sent.rows,
        attention=tuple(plans),
        vectors=sent.vectors,
    )


def layout_of(arrays: StepArrays, group: int, tables: Tensor, block_size: int) -> RaggedLayout:
    """The layout of a step in a cache group, with its tables on the device."""
    return RaggedLayout(
        query_starts=[0, *accumulate(arrays.counts.tolist())],
        context_lens=arrays.contexts.tolist(),
        block_tables=tables,
        block_size=block_size,
        host_tables=arrays.tables[group],
        held_from=arrays.held_from[group],
    )
