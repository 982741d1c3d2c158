"""Groups of layers that cache alike."""

import subprocess
import sys

from stoker.model.cache_spec import CacheGroup, CacheSpec, StatePart, StateSpec, cache_groups

FULL, LOCAL = CacheSpec(2, 64), CacheSpec(2, 64, window=1024)


def test_groups_come_in_the_order_of_their_first_layers():
    assert cache_groups([(LOCAL,), (LOCAL,), (), (FULL,), (LOCAL,)]) == (
        CacheGroup(LOCAL, (0, 1, 4)),
        CacheGroup(FULL, (3,)),
    )


def test_layers_of_one_kind_form_one_group_and_layers_without_a_cache_none():
    assert cache_groups([(FULL,), (CacheSpec(2, 64),), (FULL,)]) == (CacheGroup(FULL, (0, 1, 2)),)
    assert cache_groups([(), ()]) == ()


def test_each_layer_that_caches_is_in_one_group():
    specs = [CacheSpec(1 + i % 3, 8, 16 if i % 2 else None) if i % 5 else None for i in range(30)]
    groups = cache_groups(() if spec is None else (spec,) for spec in specs)
    found = {layer: group.spec for group in groups for layer in group.layers}
    assert found == {i: spec for i, spec in enumerate(specs) if spec is not None}
    assert sum(len(group.layers) for group in groups) == len(found)


def test_numbers_per_token():
    assert FULL.elements_per_token == 2 * 2 * 64
    assert CacheGroup(FULL, (0, 5, 6)).elements_per_token == 3 * 256


def test_no_torch_is_imported():
    code = "import stoker.model.cache_spec, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_states_come_last_and_take_the_same_for_any_length():
    state = StateSpec((StatePart((4, 8), float32=True), StatePart((3, 10))))
    groups = cache_groups([(state,), (LOCAL,), (), (state,), (FULL,), (LOCAL, state)])
    assert groups == (
        CacheGroup(LOCAL, (1, 5)),
        CacheGroup(FULL, (4,)),
        CacheGroup(state, (0, 3, 5)),
    )
    assert [group.keeps_state for group in groups] == [False, False, True]
    assert [group.bytes_per_sequence(2) for group in groups] == [0, 0, 3 * (32 * 4 + 30 * 2)]
    assert groups[2].elements_per_token == 0
