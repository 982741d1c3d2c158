"""Grouping of sequences by the blocks they begin with."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stoker.ops.shared_prefix import prefix_groups, prefix_tree


@st.composite
def trees(draw):
    """Block tables that branch from one another, and a context for each."""
    size = draw(st.sampled_from([1, 4, 16]))
    rows, fresh = [[0]], 1
    for _ in range(draw(st.integers(0, 20))):
        parent = rows[draw(st.integers(0, len(rows) - 1))]
        own = draw(st.integers(1, 4))
        rows.append(parent[: draw(st.integers(0, len(parent)))] + list(range(fresh, fresh + own)))
        fresh += own
    contexts = [draw(st.integers((len(row) - 1) * size + 1, len(row) * size)) for row in rows]
    tables = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, blocks in zip(tables, rows, strict=True):
        row[: len(blocks)] = blocks
    return tables, np.array(contexts), size


@given(trees(), st.integers(1, 8))
def test_groups_share_what_they_claim(tree, most):
    tables, contexts, size = tree
    groups = prefix_groups(tables, contexts, size, most)
    assert sorted(groups.order.tolist()) == list(range(len(tables)))
    assert groups.sizes.sum() == len(tables)
    assert groups.sizes.max() <= most
    ends = groups.sizes.cumsum()
    for end, count, tokens in zip(ends, groups.sizes, groups.tokens, strict=True):
        members = groups.order[end - count : end]
        assert (tokens > 0) == (count > 1)
        assert tokens % size == 0
        assert all(contexts[members] > tokens)
        first = tables[members, : tokens // size]
        assert (first == first[0]).all()


def test_one_prefix_is_one_group_up_to_the_limit():
    tables = np.array([[7, 8, 10 + s] for s in range(10)])
    groups = prefix_groups(tables, np.full(10, 40), 16, 4)
    assert groups.sizes.tolist() == [4, 4, 2]
    assert groups.tokens.tolist() == [32, 32, 32]


def test_a_sequence_with_little_in_common_stays_out_of_a_deep_group():
    deep = [[1, 2, 3, 4, 5, 10 + s] for s in range(3)]
    groups = prefix_groups(np.array([*deep, [1, 30, 31, 32, 33, 34]]), np.full(4, 96), 16, 16)
    assert groups.sizes.tolist() == [3, 1]
    assert groups.tokens.tolist() == [80, 0]


def released(tables, contexts, size, freed):
    """Tables whose first entries have gone: they name one block, no real one."""
    freed = np.minimum(freed, (contexts - 1) // size)
    tables = np.where(np.arange(tables.shape[1]) < freed[:, None], 9999, tables)
    return tables, freed * size


@given(trees(), st.integers(1, 8), st.integers(1, 30), st.lists(st.integers(0, 4), min_size=21))
def test_what_is_gone_is_not_shared(tree, most, least, freed):
    tables, contexts, size = tree
    tables, held_from = released(tables, contexts, size, np.array(freed[: len(tables)]))
    groups = prefix_groups(tables, contexts, size, most, held_from)
    ends = groups.sizes.cumsum()
    for end, count, tokens in zip(ends, groups.sizes, groups.tokens, strict=True):
        members = groups.order[end - count : end]
        assert (tokens > 0) == (count > 1)
        if count > 1:
            assert all(tokens > held_from[members])
            stretch = tables[members, : tokens // size]
            assert (stretch == stretch[0]).all()
    order, own, nodes = prefix_tree(tables, contexts, size, least, held_from)
    covered = [[(0, start)] for start in held_from[order].tolist()]
    for first, count, begin, end in nodes.tolist():
        stretch = tables[order[first : first + count], begin // size : end // size]
        assert (stretch == stretch[0]).all()
        assert 9999 not in stretch
        assert end - begin >= least
        for member in range(first, first + count):
            covered[member].append((begin, end))
    for stretches, start in zip(covered, own.tolist(), strict=True):
        in_order = sorted(stretches)
        assert all(one[1] == two[0] for one, two in itertools.pairwise(in_order))
        assert in_order[-1][1] == start


def test_strangers_are_alone():
    groups = prefix_groups(np.array([[1, 2], [3, 4]]), np.array([20, 32]), 16, 16)
    assert groups.order.tolist() == [0, 1]
    assert groups.tokens.tolist() == [0, 0]


@given(trees(), st.integers(1, 40))
def test_a_tree_shares_what_it_claims(tree, least):
    tables, contexts, size = tree
    order, own, nodes = prefix_tree(tables, contexts, size, least)
    assert sorted(order.tolist()) == list(range(len(tables)))
    covered = [[] for _ in order]
    for first, count, begin, end in nodes.tolist():
        assert count > 1
        assert end - begin >= least
        assert begin % size == end % size == 0
        members = order[first : first + count]
        stretch = tables[members, begin // size : end // size]
        assert (stretch == stretch[0]).all()
        for member in range(first, first + count):
            covered[member].append((begin, end))
    for stretches, start, sequence in zip(covered, own.tolist(), order, strict=True):
        ends = [0, *(end for _, end in sorted(stretches))]
        assert [begin for begin, _ in sorted(stretches)] == ends[:-1]
        assert ends[-1] == start < contexts[sequence]


def test_a_tree_finds_branches_of_branches():
    tables = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 7], [8, 9, 10, 11]])
    tree = prefix_tree(tables, np.full(4, 64), 16, 16)
    assert {(begin, end, size) for _, size, begin, end in tree.nodes.tolist()} == {
        (0, 32, 3),
        (32, 48, 2),
    }
    assert dict(zip(tree.order.tolist(), tree.own.tolist(), strict=True)) == {
        0: 48,
        1: 48,
        2: 32,
        3: 0,
    }


def test_a_stretch_that_is_too_short_goes_to_the_branches():
    tables = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [1, 6, 7, 8]])
    tree = prefix_tree(tables, np.full(3, 64), 16, 32)
    assert tree.nodes[:, 1:].tolist() == [[2, 0, 48]]
