"""The pages of docs/internals name what exists, and their worked examples come out as shown."""

import ast
import functools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import stoker
from stoker.engine.blocks.groups import GroupSize, WindowPolicy
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.sampling.controls import TokenCounts
from stoker.engine.scheduling.forecast import LengthEstimator
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.setup.kv_scales import _scales
from stoker.engine.text.detokenizer import Detokenizer
from stoker.engine.text.token_bytes import ByteStream
from stoker.ops.attention import merge_partials
from stoker.ops.nucleus import keep_top
from stoker.ops.shared_prefix import prefix_groups, prefix_tree

ROOT = Path(stoker.__file__).parent
FOLDER = ROOT.parent / "docs" / "internals"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "tour.md")
FILES = {path.name for path in [*ROOT.rglob("*.py"), *ROOT.rglob("*.[ch]")]}


@functools.cache
def attributes():
    """The names of each class of the package: methods, fields, and what is set on self."""
    found = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = found.setdefault(node.name, set())
                for part in ast.walk(node):
                    if isinstance(part, ast.FunctionDef):
                        names.add(part.name)
                    elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        names.add(part.target.id)
                    elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                        names.add(part.attr)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_names_what_exists(path):
    text = path.read_text("utf-8")
    assert 80 <= len(text.splitlines()) <= 200
    known = attributes()
    pairs = re.findall(r"`([A-Z]\w+)\.(\w+)(?:\(.*?\))?`", text)
    assert [pair for pair in pairs if pair[1] not in known.get(pair[0], ())] == []
    named = set(re.findall(r"\b(\w+\.(?:py|c|h))\b", text))
    assert named - FILES <= {"test_scheduler.py"}
    assert text.count("```") >= 8  # drawings and examples


def scheduler(**more):
    settings = {"groups": [GroupSize(64)], "block_size": 4, "max_running": 8, "max_context": 64}
    return Scheduler(**settings | {"max_batch_tokens": 8} | more)


def ask(name, prompt, **params):
    return Request(name, tuple(prompt), SamplingParams(max_tokens=8, **params))


def test_the_steps_of_three_prompts():
    plans, plan = [], scheduler()
    for name, first, size in (("a", 10, 5), ("b", 20, 6), ("c", 30, 2)):
        plan.add(ask(name, range(first, first + size)))
    for _ in range(3):
        step = plan.plan()
        plans.append([(len(item.tokens), bool(item.draws)) for item in step.items])
        plan.commit(step, [1] * step.num_logits)
    assert plans == [
        [(5, True), (3, False)],
        [(1, True), (3, True), (2, True)],
        [(1, True), (1, True), (1, True)],
    ]


def test_a_prefix_of_eight_tokens_is_taken_over():
    plan = scheduler()
    plan.add(ask("a", range(11, 20)))
    for _ in range(2):
        step = plan.plan()
        plan.commit(step, [1] * step.num_logits)
    plan.add(ask("b", range(11, 20)))
    item = plan.plan().items[-1]
    assert (item.start, item.tokens) == (8, (19,))


def test_samples_copy_on_write():
    plan = scheduler()
    plan.add(ask("a", range(6), n=2))
    step = plan.plan()
    plan.commit(step, [1, 2])
    (block,) = (step.items[0].tables[0][1],)
    step = plan.plan()
    (copy,) = step.copies
    assert copy[:2] == (0, block)
    assert [item.tables[0][1] for item in step.items] == [copy[2], block]


def test_expected_lengths():
    lengths = LengthEstimator()
    for length in (3, 5, 8, 20, 90):
        lengths.observe(length)
    four, most = np.full(4, 4), np.full(4, 1000)
    ranks = np.array([0.1, 0.4, 0.7, 0.9])
    assert lengths.ranked(four, most, ranks).tolist() == [5, 8, 20, 90]
    assert lengths.expected(four, most).tolist() == [31] * 4


def test_how_far_a_window_group_goes_on():
    window = WindowPolicy(4, 6)
    held = [7, None, 3, 9, None]
    assert window.reusable(held, 0, 5) == 4
    assert window.first_needed(13) == 8


def test_tokens_with_the_value_of_the_least():
    logits = torch.tensor([[2.0, 5.0, 3.0, 5.0, 3.0, 3.0]])
    assert keep_top(logits, torch.tensor([4]), torch.ones(1).double()).ids.tolist() == [1, 2, 3, 4]


def test_counts_for_penalties():
    counts = TokenCounts([7, 9])
    counts.update([9, 4, 9])
    assert (counts.ids.tolist(), counts.counts.tolist()) == ([7, 9, 4], [0, 2, 1])


def test_text_that_is_given():
    text = Detokenizer(ByteStream(lambda token, first: token), ("END",))
    given = []
    for token in (b"caf", b"\xc3", b"\xa9", b" EN", b"D"):
        text.push(token)
        given.append(text.take())
    assert given == ["caf", "", "é", " ", ""]
    assert text.stopped
    assert text.finish() == "café "


def test_parts_of_attention_are_joined_by_their_weights():
    parts = [
        (torch.ones(1, 1, 1) * value, torch.full((1, 1), lse))
        for value, lse in ((1, 6.0), (0, 5.0))
    ]
    out, lse = merge_partials(parts)
    assert (round(out.item(), 2), round(lse.item(), 2)) == (0.73, 6.31)


def test_who_shares_a_prefix():
    tables = np.array([[5, 6, 7, 8], [5, 6, 7, 3], [9, 1, 0, 0]])
    groups = prefix_groups(tables, np.array([50, 55, 20]), 16, 2)
    assert sorted(zip(groups.sizes.tolist(), groups.tokens.tolist(), strict=True)) == [
        (1, 0),
        (2, 48),
    ]
    tables = np.array([[1, 2, 3, 5, 0], [1, 2, 3, 6, 0], [1, 2, 3, 4, 7], [1, 2, 3, 4, 8]])
    tree = prefix_tree(tables, np.array([200, 210, 260, 270]), 64, 64)
    stretches = sorted((size, begin, end) for _, size, begin, end in tree.nodes.tolist())
    assert stretches == [(2, 192, 256), (4, 0, 192)]


def test_the_scale_of_a_head():
    assert _scales(torch.full((1, 1, 1, 1), 9.5)).item() == 0.125
    assert math.isclose(9.5 * 4 / 0.125, 304)


def test_the_family_that_contributing_adds_stands_as_shown():
    page = (ROOT.parent / "CONTRIBUTING.md").read_text("utf-8")
    (diff,) = re.findall(r"```diff\n(.*?)```", page, re.S)
    parts = re.split(r"^--- a/(.*)\n\+\+\+ b/\1\n", diff, flags=re.M)[1:]
    assert len(parts) == 4
    for name, changes in zip(parts[::2], parts[1::2], strict=True):
        text = (ROOT.parent / name).read_text("utf-8")
        added = re.findall(r"(?:^\+.*\n)+", changes, re.M)
        assert added
        assert all(re.sub(r"^\+", "", one, flags=re.M) in text for one in added), name
        assert all(one in text for one in re.findall(r"^ (.+\n)", changes, re.M)), name
