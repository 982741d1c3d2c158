"""Block tables that stay on the device: whatever changes, what arrives is what was planned."""

import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.execution.mirror import Mirror
from stoker.engine.execution.step_arrays import to_arrays
from stoker.engine.execution.table_rows import FEW, IDLE, TableRows, most_bytes
from stoker.engine.scheduling.step import Step, StepItem

CPU = torch.device("cpu")


def changed(rng, blocks):
    """A table that may follow `blocks`: grown, cut, partly others', or another altogether."""
    new = [rng.randrange(1, 10**6) for _ in range(rng.choice([1, 1, 2, 5, 70]))]
    kind = rng.randrange(6)
    if kind == 0 and blocks:
        at = rng.randrange(len(blocks))
        return (*blocks[:at], new[0], *blocks[at + 1 :])
    if kind == 1 and len(blocks) > 1:
        return blocks[: rng.randrange(1, len(blocks))]
    return tuple(new) if kind == 2 else (*blocks, *new)


def tables_of(tables, width, idle):
    return np.array([[*blocks, *[idle] * (width - len(blocks))] for blocks in tables])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), running=st.sampled_from([1, 5, 100]), shared=st.booleans())
def test_the_device_has_what_the_steps_have(seed, running, shared):
    rng = random.Random(seed)
    mirror, idle = Mirror(CPU, 7, shared), 7
    alive, serial = {}, 0
    for _ in range(30):
        for gone in [one for one in alive if rng.random() < 0.1]:
            del alive[gone]
        while len(alive) < running and (not alive or rng.random() < 0.9):
            alive[serial], serial = (), serial + 1
        for one, blocks in alive.items():
            if not blocks or rng.random() < 0.3:
                alive[one] = changed(rng, blocks)
        part = [one for one in alive if rng.random() < 0.9] or [*alive]
        rng.shuffle(part)
        blocks = [alive[one] for one in part]
        rows, changes = mirror.rows.update(part, blocks)
        if rng.random() < 0.1:
            continue  # the step failed on its way
        width = max(map(len, blocks))
        found = mirror.tables(torch.from_numpy(changes), torch.from_numpy(rows), width)
        want = tables_of(blocks, width, idle)
        assert np.array_equal(found.numpy(), want)
        assert found.is_contiguous()
        assert np.array_equal(mirror.rows.entries[rows, :width], want)
        assert len(set(rows.tolist())) == len(rows)
        assert IDLE not in rows
        assert (mirror.rows.entries[IDLE] == idle).all()
        entries = mirror.rows.entries
        assert entries.nbytes <= most_bytes(running, max(entries.shape[1], width))


def test_little_is_sent():
    rows, blocks = TableRows(), tuple(range(1, 40))
    tables = [(*blocks, 100 + n) for n in range(8)]
    assert rows.update(range(8), tables)[1].shape == (2, 8 * 40)
    assert rows.update(range(8), tables)[1].shape == (2, 0)
    tables[3] = (*tables[3], 5)
    [[at], [block]] = rows.update(range(8), tables)[1].tolist()
    assert block == 5
    assert at % FEW == 40


def test_the_numbers_of_a_step():
    """Positions, slots and ids follow from what is sent."""
    items = (
        StepItem(4, 5, (11, 12, 13), (8, 3), (0,)),
        StepItem(9, 2, (~1,), (6,), (0,)),
        StepItem(2, 0, (14, 15), (5,), ()),
    )
    numbers = to_arrays(Step(1, items), 4, TableRows())
    assert numbers.tokens.tolist() == [11, 12, 13, ~1, 14, 15]
    assert numbers.owners.tolist() == [0, 0, 0, 1, 2, 2]
    assert numbers.shifts.tolist() == [5, -1, -4]
    assert numbers.rows.tolist() == [2, 3]
    assert numbers.contexts.tolist() == [8, 3, 2]
    assert numbers.tables.tolist() == [[8, 3], [6, 0], [5, 0]]
    assert numbers.late
