"""What the device keeps by slot: whatever changes, what is there is what was planned."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.execution.device_slots import DeviceSlots, slot_bytes
from stoker.engine.execution.slot_settings import SentDraws

CPU = torch.device("cpu")
WIDTH = 200
NOWHERE = torch.zeros(0, dtype=torch.int64)
NO_DRAWS = SentDraws(
    np.zeros((6, 0), np.int64), NOWHERE, NOWHERE, NOWHERE.view(7, 0), NOWHERE.view(6, 0)
)


def changed(rng, blocks):
    """A table that may follow `blocks`: grown, cut, partly others', or another altogether."""
    new = [rng.randrange(1, 10**6) for _ in range(rng.choice([1, 1, 2, 5, 70]))]
    kind = rng.randrange(6)
    if kind == 0 and blocks:
        at = rng.randrange(len(blocks))
        return (*blocks[:at], new[0], *blocks[at + 1 :])
    if kind == 1 and len(blocks) > 1:
        return blocks[: rng.randrange(1, len(blocks))]
    return tuple(new) if kind == 2 else (*blocks, *new)[:WIDTH]


def tables_of(tables, width, idle):
    return np.array([[*blocks, *[idle] * (width - len(blocks))] for blocks in tables])


def sent(slots, changes):
    """The bytes that would go to a device."""
    slots.receive([torch.from_numpy(new) for new in changes], NOWHERE, NO_DRAWS)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    running=st.sampled_from([1, 5, 40]),
    idle=st.sampled_from([(0,), (7,), (7, 0)]),
    shared=st.booleans(),
)
def test_the_device_has_what_the_steps_have(seed, running, idle, shared):
    """Slots pass from sequence to sequence, each group has its tables, some steps fail midway."""
    rng = random.Random(seed)
    slots = DeviceSlots(running, WIDTH * 4, 4, CPU, idle, shared)
    tables = [[() for _ in range(running)] for _ in idle]
    for _ in range(20):
        part = rng.sample(range(running), rng.randint(1, running))
        for group in tables:
            for slot in part:
                if not group[slot] or rng.random() < 0.3:
                    group[slot] = changed(rng, group[slot])
        wanted = [[group[slot] for slot in part] for group in tables]
        changes = slots.update(part, wanted)
        if rng.random() < 0.1:
            continue  # the step failed on its way
        sent(slots, changes)
        for group, blocks, own, new in zip(slots.groups, wanted, idle, changes, strict=True):
            width = max(map(len, blocks))
            want = tables_of(blocks, width, own)
            host = group.entries[part, :width]
            assert np.array_equal(host, want)
            found = group.gather(torch.tensor(part), host)
            assert np.array_equal(found.numpy(), want)
            assert found.is_contiguous()
            assert (group.entries[slots.dummy] == own).all()
            assert new.shape[1] <= len(part) * WIDTH


def test_little_is_sent():
    slots = DeviceSlots(8, 64 * 16, 16, CPU)
    blocks = tuple(range(1, 40))
    tables = [(*blocks, 100 + n) for n in range(8)]
    assert slots.update(range(8), [tables])[0].shape == (2, 8 * 40)
    assert slots.update(range(8), [tables])[0].shape == (2, 0)
    tables[3] = (*tables[3], 5)
    ((places, new),) = slots.update(range(8), [tables])
    assert (places.tolist(), new.tolist()) == ([3 * slots.width + 40], [5])
    tables[3] = (*blocks, 200)  # the slot's next sequence shares a prefix with the one before
    ((places, new),) = slots.update([3], [[tables[3]]])
    assert set(new.tolist()) <= {*blocks, 200, 0}


@pytest.mark.parametrize("given_as", ["list", "tensor"])
def test_last_tokens_are_those_of_the_slots(given_as):
    """The example of device_slots.py: slot 2 keeps its token while others draw."""
    slots = DeviceSlots(3, 64, 4, CPU)
    for drawing, tokens in (([0, 1], [70, 55]), ([2], [9]), ([1, 0], [8, 7])):
        slots.receive(slots_of_no_change(), torch.tensor(drawing), NO_DRAWS)
        slots.keep(tokens if given_as == "list" else torch.tensor(tokens))
    assert slots.last_tokens.tolist() == [7, 8, 9, 0]


def slots_of_no_change():
    return [torch.zeros(2, 0, dtype=torch.int64)]


def test_a_table_longer_than_the_context_does_not_reach_into_the_next_slot():
    slots = DeviceSlots(2, 8, 4, CPU)
    with pytest.raises(AssertionError, match="longer than the context"):
        slots.update([0], [[(1, 2, 3)]])


def test_bytes_on_the_device():
    slots = DeviceSlots(5, 100, 16, CPU, (3, 9), shared=False)
    tables = (*slots.groups, slots.settings)
    tensors = [slots.last_tokens, *(one._table for one in tables)]
    assert sum(tensor.nbytes for tensor in tensors) == slot_bytes(5, 100, 16, groups=2)
