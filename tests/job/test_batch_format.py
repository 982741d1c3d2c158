"""The OpenAI batch format: requests as hosted services take them, and their responses."""

import json

import pytest

from stoker.errors import InvalidRequestError
from stoker.job import batch_format
from stoker.job.rows import BadRow, Row

CHAT, TEXT = batch_format.CHAT, batch_format.TEXT
HELLO = [{"role": "user", "content": "hello"}]


def request(body, url=CHAT, **more):
    return {"custom_id": "r-1", "method": "POST", "url": url, "body": body, **more}


def parse(body, url=CHAT, **more):
    return batch_format.parse(request(body, url, **more))


def test_only_requests_are_requests():
    assert batch_format.is_batch(request({}))
    assert not batch_format.is_batch({"custom_id": 1, "prompt": "x"})


def test_chats():
    body = {
        "model": "gpt-4o-mini",
        "messages": HELLO,
        "temperature": 0.3,
        "max_completion_tokens": 12,
        "top_p": None,
        "stop": "x",
        "n": 2,
        "seed": 4,
        "logit_bias": {"5": 1},
        "logprobs": True,
        "top_logprobs": 3,
        "user": "me",
        "stream": False,
        "response_format": {"type": "text"},
        "top_k": 7,
    }
    given = {"temperature": 0.3, "max_tokens": 12, "stop": "x", "n": 2, "seed": 4}
    given |= {"logit_bias": {"5": 1}, "logprobs": 3, "top_k": 7}
    assert parse(body) == ("messages", HELLO, given)
    assert parse({"messages": HELLO, "logprobs": True})[2] == {"logprobs": 0}
    assert parse({"messages": HELLO, "logprobs": False})[2] == {}


def test_what_the_chat_template_is_given():
    tools = [{"type": "function", "function": {"name": "f"}}]
    options = {"tools": tools, "chat_template_kwargs": {"enable_thinking": False}}
    options |= {"add_generation_prompt": False, "continue_final_message": True}
    body = {"messages": HELLO, "max_tokens": 3, "tool_choice": "auto", **options}
    assert parse({**body, "parallel_tool_calls": True})[2] == {"max_tokens": 3, **options}
    without = parse({**body, "tool_choice": "none"})[2]
    assert without == {name: value for name, value in options.items() if name != "tools"} | {
        "max_tokens": 3
    }


def test_completions():
    assert parse({"prompt": "a", "logprobs": 2}, TEXT) == ("prompt", "a", {"logprobs": 2})
    assert parse({"prompt": ["a"]}, TEXT) == ("prompt", "a", {})
    assert parse({"prompt": [1, 2]}, TEXT) == ("prompt_token_ids", [1, 2], {})
    assert parse({"prompt": [[1, 2]]}, TEXT) == ("prompt_token_ids", [1, 2], {})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (request({}, "/v1/embeddings"), "url must be /v1/chat/completions or /v1/completions"),
        (request({}, method="GET"), "method must be POST, not 'GET'"),
        (request("x"), "body must be an object, not 'x'"),
        (request({"prompt": "x"}), "the body of /v1/chat/completions needs messages"),
        (request({"messages": "x"}), "messages must be a list, not 'x'"),
        (request({"messages": HELLO}, TEXT), "the body of /v1/completions needs prompt"),
        (
            request({"prompt": ["a", "b"]}, TEXT),
            "one text or one list of token ids; give each a row",
        ),
        (request({"messages": HELLO, "temprature": 1}), "did you mean 'temperature'?"),
        (request({"messages": HELLO, "stream": True}), "stream = True can't be served; leave it"),
        (request({"prompt": "a", "tools": [{}]}, TEXT), "tools = [{}] can't be served"),
        (request({"messages": HELLO, "tool_choice": "required"}), "tool_choice = 'required' can't"),
        (
            request({"messages": HELLO, "tools": [{}], "parallel_tool_calls": False}),
            "parallel_tool_calls = False can't be served with tools",
        ),
        (request({"messages": HELLO, "chat_template_kwarg": {}}), "mean 'chat_template_kwargs'?"),
        (request({"messages": HELLO, "logprobs": 3}), "logprobs must be true or false in a chat"),
        (request({"messages": HELLO, "top_logprobs": 3}), "top_logprobs needs logprobs: true"),
    ],
)
def test_requests_that_can_not_be_served(fields, says):
    with pytest.raises(InvalidRequestError) as stop:
        batch_format.parse(fields)
    assert says in str(stop.value)


def entry(token, logprob, rank):
    return {"id": rank, "token": token, "logprob": logprob, "rank": rank}


RESULT = {
    "row": 7,
    "status": "done",
    "text": "hi",
    "finish_reason": "stop",
    "prompt_tokens": 5,
    "output_tokens": 3,
    "logprobs": [[entry("é", -2.0, 3), entry("a", -0.5, 1), entry("b", -1.0, 2)]],
}


def test_a_chat_s_response():
    fields = request({"messages": HELLO, "model": "m", "logprobs": True, "top_logprobs": 2})
    found = batch_format.response(7, fields, RESULT)
    assert list(found) == ["id", "custom_id", "response", "error"]
    assert (found["id"], found["custom_id"], found["error"]) == ("batch_req_7", "r-1", None)
    assert (found["response"]["status_code"], found["response"]["request_id"]) == (200, "req_7")
    body = found["response"]["body"]
    assert (body["id"], body["object"], body["model"]) == ("chatcmpl-7", "chat.completion", "m")
    assert body["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
    }
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hi", "refusal": None}
    assert choice["finish_reason"] == "stop"
    (token,) = choice["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("é", -2.0, [0xC3, 0xA9])
    assert [one["token"] for one in token["top_logprobs"]] == ["a", "b"]


def test_a_completion_s_response():
    fields = request({"prompt": "x", "logprobs": 1}, TEXT)
    samples = [dict(RESULT, finish_reason="length"), dict(RESULT, text="ho")]
    result = {**{k: v for k, v in RESULT.items() if k not in batch_format.SAID}, "samples": samples}
    body = batch_format.response(7, fields, result)["response"]["body"]
    assert body["object"] == "text_completion"
    assert [one["text"] for one in body["choices"]] == ["hi", "ho"]
    assert [one["finish_reason"] for one in body["choices"]] == ["length", "stop"]
    assert [one["index"] for one in body["choices"]] == [0, 1]
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["é"],
        "token_logprobs": [-2.0],
        "top_logprobs": [{"a": -0.5}],
        "text_offset": [0],
    }


@pytest.mark.parametrize(("status", "code"), [("bad_row", 400), ("too_long", 400), ("failed", 500)])
def test_responses_to_bad_requests(status, code):
    result = {"row": 7, "status": status, "error": "why"}
    found = batch_format.response(7, request("x", "no"), result)["response"]
    assert found["status_code"] == code
    assert found["body"]["error"]["message"] == "why"
    assert found["body"]["error"]["code"] == status


def test_the_row_that_is_written():
    row = Row(7, request({"messages": HELLO}), "a, line 7")
    found = batch_format.output_row(row, RESULT, "result", plain=False)
    assert found["result"] == {
        "row": 7,
        "status": "done",
        "prompt_tokens": 5,
        "output_tokens": 3,
    }
    assert json.dumps(found)
    assert batch_format.output_row(row, RESULT, "result", plain=True)["result"] == RESULT
    marked = Row(7, {**row.fields, "want": "y", "id": 3}, "a, line 7")
    assert batch_format.output_row(marked, RESULT, "result", plain=False) == {**found, "want": "y"}
    bad = BadRow(7, "no", {"line": "x"})
    assert batch_format.output_row(bad, {"row": 7}, "r", plain=False) == {
        "line": "x",
        "r": {"row": 7},
    }


def test_azures_urls_are_the_same_endpoints():
    assert parse({"messages": HELLO}, "/chat/completions") == parse({"messages": HELLO})
    assert parse({"prompt": "a"}, "/completions") == parse({"prompt": "a"}, TEXT)
    fields = request({"messages": HELLO}, "/chat/completions")
    result = {"status": "done", "text": "x", "finish_reason": "stop"}
    body = batch_format.response(3, fields, {**result, "prompt_tokens": 1, "output_tokens": 1})
    assert body["response"]["body"]["choices"][0]["message"]["content"] == "x"
    for url in ("/v1/embeddings", "chat/completions", ["/v1/completions"], None):
        with pytest.raises(InvalidRequestError, match="url must be"):
            parse({"messages": HELLO}, url)


def test_two_names_of_a_parameter_must_agree():
    for order in (["max_tokens", "max_completion_tokens"], ["max_completion_tokens", "max_tokens"]):
        body = {"messages": HELLO, **dict(zip(order, (5, 6), strict=True))}
        with pytest.raises(InvalidRequestError, match=f"{order[0]} and {order[1]} are the same"):
            parse(body)
        assert parse({"messages": HELLO, **dict.fromkeys(order, 5)})[2] == {"max_tokens": 5}
