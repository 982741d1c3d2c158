"""The vectors of prompts, their ids, and where they stand in a step."""

import random

import numpy as np
import torch

from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.step_tensors import to_arrays, to_tensors
from stoker.engine.execution.step_vectors import step_vectors
from stoker.engine.request.vectors import FIRST_VECTOR_ID, PromptVectors, content_ids
from stoker.engine.scheduling.step import Step, StepItem
from stoker.llm.prompt_vectors import join_parts
from stoker.ops.attention import ReferenceAttention
from stoker.ops.select import Operations

CPU = torch.device("cpu")


def test_ids_of_a_prompt():
    """The example at the head of request/vectors.py."""
    u, v = np.array([[0.5, 1], [0.5, -1]], np.float32)
    ids, vectors = join_parts([[11, 12], np.stack([u, v, u]), [13]])
    a, b = content_ids(np.stack([u, v]))
    assert ids == [11, 12, a, b, a, 13]
    assert a != b
    assert all(FIRST_VECTOR_ID <= one < 1 << 63 for one in (a, b))
    assert vectors.tokens_of(ids) == [11, 12, 13]
    assert vectors.shown(ids) == [11, 12, -1, -1, -1, 13]
    assert join_parts([[1], [2]]) == ([1, 2], None)


def test_vectors_of_a_step():
    """The example in step_vectors.py, and what the model gets of it."""
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    ids, vectors = join_parts([[1, 2], values, [13]])
    items = (
        StepItem(4, 0, 0, (21, 22), ((1,),), (0,)),
        StepItem(7, 1, 5, tuple(ids[5:8]), ((2, 3),), (0,)),
    )
    found = step_vectors(Step(1, items), {7: vectors}.get)
    assert found.rows.tolist() == [2, 3]
    assert found.values.tolist() == values[3:5].tolist()
    slots = DeviceSlots(5, 64, 4, CPU)
    tensors = to_tensors(
        to_arrays(Step(1, items), slots, found), slots, Operations(ReferenceAttention())
    )
    assert tensors.token_ids.tolist() == [21, 22, 0, 0, 13]
    assert tensors.vectors.rows.tolist() == [2, 3]
    assert tensors.vectors.values.tolist() == values[3:5].tolist()
    assert step_vectors(Step(2, items[:1]), {7: vectors}.get) is None
    behind = (items[1]._replace(start=7, tokens=(13,)),)
    assert step_vectors(Step(2, behind), {7: vectors}.get) is None


def test_parts_of_spans_against_a_walk():
    rng = random.Random(0)
    for _ in range(200):
        places, at = [], 0
        for _ in range(rng.randint(1, 3)):
            at += rng.randint(0, 3)
            places.append((at, np.full((rng.randint(1, 4), 1), at, np.float32)))
            at += len(places[-1][1])
        vectors = PromptVectors(tuple(places))
        start = rng.randint(0, at + 2)
        end = start + rng.randint(1, 6)
        walked = [
            (first + row, values[row].tolist())
            for first, values in places
            for row in range(len(values))
            if start <= first + row < end
        ]
        found = [
            (first + row, part[row].tolist())
            for first, part in vectors.within(start, end)
            for row in range(len(part))
        ]
        assert found == walked
