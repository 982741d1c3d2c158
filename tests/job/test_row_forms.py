"""Rows in the forms that other programs leave them in: JSON text, nulls, requests without an id."""

import json

import pytest

from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError
from stoker.job.overrides import Overrides
from stoker.job.prompts import PromptBuilder, PromptSettings
from stoker.job.rows import Row
from stoker.job.template import Template

BASE = SamplingParams(temperature=0, max_tokens=9)


def ask(fields, filled=False, **settings):
    row = Row(4, fields, "a.csv, line 4", filled=filled)
    return PromptBuilder(PromptSettings(**settings), BASE, True).ask(row)


def asked(fields, **settings):
    one = ask(fields, **settings)
    return one.kind, one.value


def wrong(fields):
    with pytest.raises(InvalidRequestError) as stop:
        ask(fields)
    return str(stop.value)


def user(text):
    return {"role": "user", "content": text}


def test_lists_may_be_json_text_as_in_csv_files():
    chat = [user("hello")]
    assert asked({"messages": json.dumps(chat)}) == ("messages", chat)
    assert asked({"prompt_token_ids": "[5, 6]"}) == ("prompt_token_ids", [5, 6])
    for text in ("[{'role': 'user'}]", "hello", ""):  # as Python shows lists, and no list
        assert "or the JSON text of one" in wrong({"messages": text})
    assert "messages must be a list" in wrong({"messages": "{}"})


def test_a_request_without_custom_id_is_told_so():
    request = {"method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
    assert "needs a custom_id" in wrong(request)


def test_a_null_parameter_is_one_that_is_not_given():
    base = SamplingParams(temperature=0.5, max_tokens=9)
    given = {"temperature": None, "top_p": None, "n": None, "min_tokens": 2}
    found = Overrides(base).apply(given)
    assert (found.temperature, found.top_p, found.n, found.min_tokens) == (0.5, 1.0, 1, 2)
    assert Overrides(base).apply({"max_tokens": None}).max_tokens is None  # that has a meaning


def test_nulls_that_parquet_has_filled_in_are_absent():
    fields = {
        "messages": [{"role": "user", "content": "hi", "name": None, "tool_calls": None}],
        "sampling": {"max_tokens": None, "stop": ["x"], "logprobs": None},
    }
    one = ask(fields, filled=True)
    assert one.value == [user("hi")]
    assert (one.params.max_tokens, one.params.stop, one.params.logprobs) == (9, ("x",), None)
    body = {"messages": [user("hi")], "response_format": {"type": "text", "json_schema": None}}
    batch = {"custom_id": "a", "url": "/v1/chat/completions", "body": body, "method": None}
    assert ask(batch, filled=True).value == [user("hi")]


def test_the_column_self_is_not_jinjas():
    assert asked({"self": "x"}, template="{{ row['self'] }}") == ("messages", [user("x")])
    with pytest.raises(InvalidRequestError, match=r"is written \{\{ row\["):
        Template("a {{ self }}", "--prompt").render({"self": "x"})
    blocks = "{% block a %}{{ x }}{% endblock %}{{ self.a() }}"
    assert Template(blocks, "--prompt").render({"x": "y"}) == "yy"
