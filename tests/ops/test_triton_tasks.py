"""The cutting of a step into tasks: every query meets every key it sees, once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shared_prefix import trees

from stoker.ops.triton.plan import capacity
from stoker.ops.triton.tasks import Cutting, make_tasks


@st.composite
def steps(draw):
    """Query starts, contexts, tables and block size of a step with shared prefixes."""
    tables, contexts, size = draw(trees())
    counts = [draw(st.sampled_from([1, 1, 1, 2, 9, int(n)])) for n in contexts]
    counts = np.minimum(counts, contexts)
    return np.concatenate(([0], counts.cumsum())), contexts, tables, size


cuttings = st.builds(
    Cutting,
    narrow=st.integers(1, 3),
    wide=st.integers(1, 9),
    programs=st.integers(1, 60),
    piece=st.sampled_from([4, 16]),
    shared=st.sampled_from([None, 1, 16]),
)


@given(steps(), cuttings)
@settings(max_examples=200, deadline=None)
def test_every_query_meets_every_key_once(step, cut):
    starts, contexts, tables, size = step
    lists = make_tasks(starts, contexts, tables, size, cut)
    met = np.zeros((starts[-1], contexts.max()), int)
    owner = np.repeat(np.arange(len(contexts)), np.diff(starts))
    partials = {}
    for task_list, most in ((lists.narrow, cut.narrow), (lists.wide, cut.wide)):
        for table, first, count, begin, end, partial in task_list.tolist():
            assert 0 < count <= most
            assert begin < end
            for member in range(count):
                row, position = lists.members[first + member]
                met[row, begin : min(end, position + 1)] += 1
                blocks = slice(begin // size, (min(end, position + 1) - 1) // size + 1)
                assert (tables[table, blocks] == tables[owner[row], blocks]).all()
                if partial >= 0:
                    partials.setdefault(int(row), []).append(partial + member)
    for row, sequence in enumerate(owner):
        position = contexts[sequence] - (starts[sequence + 1] - row)
        assert (met[row] == (np.arange(met.shape[1]) <= position)).all()
    merges = {
        int(row): sorted(lists.merge_items[a:b].tolist())
        for row, a, b in zip(
            lists.merge_rows, lists.merge_starts, lists.merge_starts[1:], strict=False
        )
    }
    assert merges == {row: sorted(items) for row, items in partials.items()}
    items = sorted(lists.merge_items.tolist())
    assert items == list(range(len(items)))


@given(steps(), cuttings)
@settings(max_examples=100, deadline=None)
def test_what_a_reserved_plan_has_room_for(step, cut):
    """Without prefixes in common, and with pieces as long as need be, every step fits."""
    starts, contexts, tables, size = step
    room = capacity(cut, len(contexts), int(starts[-1]))
    alone = Cutting(cut.narrow, cut.wide, cut.programs, cut.piece, None)
    sizes = make_tasks(starts, contexts, tables, size, alone).sizes()
    whole = Cutting(cut.narrow, cut.wide, cut.programs, 1 << 20, None)
    least = make_tasks(starts, contexts, tables, size, whole).sizes()
    assert all(a <= b for a, b in zip(sizes[:3], room[:3], strict=True))  # however it is cut
    assert all(a <= b for a, b in zip(least, room, strict=True))
    assert least[4] == 0


@given(
    seed=st.integers(0, 2**32),
    programs=st.sampled_from([1, 7, 64, 264, 2112]),
    longest=st.sampled_from([300, 5_000, 120_000]),
)
@settings(max_examples=300, deadline=None)
def test_work_is_split_within_a_tenth(seed, programs, longest):
    """No task has more than 1.1 of an equal share of the keys, or one least piece."""
    rng = np.random.default_rng(seed)
    contexts = rng.integers(1, longest, rng.integers(1, 60)) ** rng.integers(1, 3) % longest + 1
    counts = np.minimum(np.where(rng.random(len(contexts)) < 0.7, 1, 200), contexts)
    starts = np.concatenate(([0], counts.cumsum()))
    cut = Cutting(narrow=4, wide=16, programs=programs, piece=256, shared=None)
    lists = make_tasks(starts, contexts, None, 16, cut)
    for tasks in (lists.narrow, lists.wide):
        if len(tasks):
            keys = tasks[:, 4] - tasks[:, 3]
            assert keys.max() <= max(1.1 * keys.sum() / programs, cut.piece)
            assert keys.min() > 0
