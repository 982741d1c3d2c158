"""Settings of draws by slot: whatever runs in which slot, each draw has its own."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker import SamplingParams
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.step_tensors import to_arrays
from stoker.engine.request.request import DrawSettings, Request
from stoker.engine.scheduling.step import Step, StepItem

CPU, VOCAB = torch.device("cpu"), 50


def random_settings(rng):
    return DrawSettings(
        temperature=rng.choice([0.0, 0.5, 1.3]),
        top_p=rng.choice([1.0, 0.9]),
        min_p=rng.choice([0.0, 0.1]),
        typical_p=rng.choice([1.0, 0.7]),
        top_k=rng.choice([0, -1, 7, 1000]),
        seed=rng.choice([0, 17, (1 << 64) - 1, rng.getrandbits(64)]),
    )


def expected(drawn):
    """The parameters of (settings, position) pairs, written out."""
    each = [one for one, _ in drawn]
    random = [one for one in each if one.temperature > 0]
    used = {
        "top_k": any(0 < one.top_k < VOCAB for one in random),
        "top_p": any(one.top_p < 1 for one in random),
        "min_p": any(one.min_p > 0 for one in random),
        "typical_p": any(one.typical_p < 1 for one in random),
    }
    return {
        "temperature": torch.tensor([one.temperature for one in each], dtype=torch.float32),
        "seeds": [one.seed - (1 << 64) * (one.seed >> 63) for one in each],
        "positions": [position for _, position in drawn],
        **{name: [getattr(one, name) for one in each] if used[name] else None for name in used},
    }


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), running=st.sampled_from([1, 4, 30]), shared=st.booleans())
def test_each_draw_has_its_settings(seed, running, shared):
    """Slots pass from one completion to another, prompts fork, drafts are verified, steps fail."""
    rng = random.Random(seed)
    slots = DeviceSlots(running, 64, 4, CPU, shared=shared)
    own = {}
    for number in range(12):
        items, drawn = [], []
        for slot in rng.sample(range(running), rng.randint(1, running)):
            if slot not in own or rng.random() < 0.2:
                own[slot] = random_settings(rng)
            start, count = rng.randint(0, 20), rng.randint(1, 4)
            end, kind = start + count, rng.randrange(4)
            draws, verify = (), 0
            if kind == 0:
                draws = tuple(range(rng.randint(2, 4)))  # samples of one prompt
                drawn += [(own[slot], end), *((random_settings(rng), end) for _ in draws[1:])]
            elif kind == 1:
                draws, verify = (0,), count - 1
                drawn += [(own[slot], at) for at in range(end - verify, end + 1)]
            elif kind == 2:
                draws = (0,)
                drawn.append((own[slot], end))
            items.append(
                StepItem(slot, slot, start, (1,) * count, ((1,) * 8,), draws, verify=verify)
            )
        given = [one for one, _ in drawn]
        arrays = to_arrays(Step(number, tuple(items)), slots, settings=given)
        if rng.random() < 0.1:
            continue  # the step failed on its way
        arrays.send(slots)
        if not drawn:
            continue
        found = slots.draw_params(VOCAB)._asdict()
        for name, values in expected(drawn).items():
            got = found[name]
            if name == "temperature":
                assert torch.equal(got, values)
            else:
                assert (None if got is None else got.tolist()) == values, name


def test_settings_are_sent_once():
    slots = DeviceSlots(4, 64, 4, CPU, shared=False)
    each = [Request(str(n), (1,), SamplingParams(), seed=n).draw_settings(0) for n in range(3)]
    items = [StepItem(n, n, 5, (1,), ((1, 2),), (0,)) for n in range(3)]
    sent = []
    for part in ([0, 1], [0, 1], [0, 1, 2], [2, 0]):
        step = Step(1, tuple(items[n] for n in part))
        arrays = to_arrays(step, slots, settings=[each[n] for n in part])
        arrays.send(slots)
        sent.append(arrays.draws.changes[0].tolist())
    assert sent == [[0, 1], [], [2], []]
    assert slots.draw_params(VOCAB).seeds.tolist() == [
        one.seed - (1 << 64) * (one.seed >> 63) for one in (each[2], each[0])
    ]


def test_the_example():
    """That at the head of slot_settings.py: slots 4 and 1 of 5, three samples and two drafts."""
    slots = DeviceSlots(5, 64, 4, CPU)
    items = (
        StepItem(7, 4, 5, (1,) * 4, ((1, 2, 3),), (0, 1, 2)),
        StepItem(8, 1, 2, (1,) * 3, ((4, 5),), (0,), verify=2),
    )
    one = random_settings(random.Random(0))
    draws = to_arrays(Step(1, items), slots, settings=[one] * 6).draws
    assert draws.columns.tolist() == [4, 6, 7, 1, 1, 1]
    assert draws.positions.tolist() == [9, 9, 9, 3, 4, 5]
    assert draws.further.shape == (6, 2)


@pytest.mark.parametrize("index", [0, 3])
def test_samples_have_streams_of_their_own(index):
    request = Request("a", (1,), SamplingParams(temperature=0.3, top_k=4, min_p=0.1), seed=9)
    found = request.draw_settings(index)
    assert found[:5] == (0.3, 1.0, 0.1, 1.0, 4)
    others = {request.draw_settings(one).seed for one in range(5)}
    assert len(others) == 5
