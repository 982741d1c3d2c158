"""Rows nested so deeply that a program runs out of its stack: they are bad rows, whole or not."""

import copy
import json
import pickle

import pytest

from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError
from stoker.job.overrides import Overrides
from stoker.job.rows import BadRow, Row
from stoker.job.sources import open_source
from stoker.job.sources.lines import DEEPEST

LIST, OBJECT = ("[", "]"), ('{"a": ', "}")


def row(levels, brackets):
    """A row of so many levels, the row itself included."""
    start, end = brackets
    return '{"x": ' + start * (levels - 1) + "1" + end * (levels - 1) + "}"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("brackets", [LIST, OBJECT])
def test_levels(tmp_path, name, brackets):
    deep = [DEEPEST, DEEPEST + 1, 490, 995, 5000, 100_000]
    lines = [*(row(levels, brackets) for levels in deep), '{"x": [[], {}, []]}']
    text = "\n".join(lines) if name == "a.jsonl" else "[" + ",\n".join(lines) + "]"
    (tmp_path / name).write_text(text)
    good, *bad, last = open_source(tmp_path / name).rows()
    assert isinstance(good, Row)
    assert isinstance(last, Row)
    # what a job does with a row, and what takes most levels of the stack
    assert json.loads(json.dumps(good.fields)) == copy.deepcopy(
        pickle.loads(pickle.dumps(good.fields))
    )
    assert [type(one) for one in bad] == [BadRow] * (len(deep) - 1)
    assert all("nested too deeply" in one.error for one in bad)


def test_many_lists_beside_each_other_are_not_deep(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"x": [[1], {"y": []}] * 500}))
    assert isinstance(*open_source(tmp_path / "a.jsonl").rows(), Row)


def test_parameters_in_deep_text():
    with pytest.raises(InvalidRequestError, match="must be a JSON object"):
        Overrides(SamplingParams()).apply("[" * 100_000)
