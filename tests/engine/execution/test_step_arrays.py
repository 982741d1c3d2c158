"""A step flattened and sent: the numbers of small ones."""

import torch

from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.step_tensors import to_arrays, to_tensors
from stoker.engine.scheduling.step import LAST_TOKEN, Step, StepItem
from stoker.ops.attention import ReferenceAttention
from stoker.ops.select import Operations

CPU = torch.device("cpu")
ITEMS = (
    StepItem(4, 4, 5, (11, 12, 13), ((8, 3),), (0,)),
    StepItem(9, 1, 2, (LAST_TOKEN,), ((6,),), (0,)),
    StepItem(2, 0, 0, (14, 15), ((5,),), ()),
)


def test_the_arrays_of_a_step():
    """The example at the head of step_tensors.py."""
    arrays = to_arrays(Step(1, ITEMS), DeviceSlots(5, 64, 4, CPU))
    assert arrays.tokens.tolist() == [11, 12, 13, LAST_TOKEN, 14, 15]
    assert arrays.owners.tolist() == [0, 0, 0, 1, 2, 2]
    assert arrays.shifts.tolist() == [5, -1, -4]
    assert arrays.slots.tolist() == [4, 1, 0]
    assert arrays.rows.tolist() == [2, 3]
    assert arrays.drawing.tolist() == [4, 1]
    assert arrays.contexts.tolist() == [8, 3, 2]
    assert [table.tolist() for table in arrays.tables] == [[[8, 3], [6, 0], [5, 0]]]
    assert arrays.has_last


def test_rows_of_states_and_scores_follow_those_of_draws():
    items = (
        StepItem(0, 0, 0, (1, 2, 3), ((1,),), (), (1, 3)),
        StepItem(1, 1, 0, (4, 5), ((2,),), (0, 1), (0, 0), (0, 1)),
        StepItem(2, 2, 0, (6,), ((3,),), (0,)),
    )
    arrays = to_arrays(Step(1, items), DeviceSlots(3, 64, 4, CPU))
    assert arrays.rows.tolist() == [4, 5, 1, 2, 3]
    assert arrays.drawing.tolist() == [1, 2]
    assert not arrays.has_last


def test_drafts_have_rows_too():
    """Tokens 0 to 2 are a prompt, 3 a decode, 4 to 6 a decode with drafts, 7 part of a prompt."""
    items = (
        StepItem(0, 0, 0, (1, 2, 3), ((1,),), (0,)),
        StepItem(1, 1, 2, (4,), ((2,),), (0,)),
        StepItem(2, 2, 5, (5, 6, 7), ((3, 4),), (0,), verify=2),
        StepItem(3, 3, 0, (8,), ((5,),), ()),
    )
    arrays = to_arrays(Step(1, items), DeviceSlots(4, 64, 4, CPU))
    assert arrays.rows.tolist() == [2, 3, 4, 5, 6]
    assert arrays.drawing.tolist() == [0, 1, 2]
    assert Step(1, items).num_logits == 5
    assert Step(1, items).last_tokens([10, 11, 12, 13, 14]) == {0: 10, 1: 11, 2: 12}


def test_a_token_under_way_is_the_last_of_its_slot():
    slots, ops = DeviceSlots(5, 64, 4, CPU), Operations(ReferenceAttention())
    first = (StepItem(2, 0, 0, (7,), ((5,),), (0,)), StepItem(9, 1, 0, (8, 9), ((6,),), (0,)))
    for shared_last in ([70, 55], torch.tensor([70, 55])):
        to_tensors(to_arrays(Step(1, first), slots), slots, ops)
        slots.keep(shared_last)
        batch = to_tensors(to_arrays(Step(2, ITEMS), slots), slots, ops)
        assert batch.token_ids.tolist() == [11, 12, 13, 55, 14, 15]
        assert batch.positions.tolist() == [5, 6, 7, 2, 0, 1]
        assert batch.cells[0].tolist() == [3 * 4 + 1, 3 * 4 + 2, 3 * 4 + 3, 6 * 4 + 2, 20, 21]
