"""The OpenAI batch format: a request in each row in, a response in each row out.

A request is {"custom_id", "method", "url", "body"}. Responses hold nothing random and no time:
ids derive from the row's number, so that two runs write the same. Knows no engine; called by
prompts.py for what comes in, and by the job's output for what goes out.
"""

from __future__ import annotations

from typing import Any

from stoker.engine.request.other_names import hint
from stoker.engine.request.response_format import from_response_format
from stoker.errors import InvalidRequestError
from stoker.job.batch_logprobs import chat_logprobs, completion_logprobs
from stoker.job.chat_columns import NAMES as CHAT_NAMES
from stoker.job.overrides import KNOWN
from stoker.job.result_texts import completions
from stoker.job.rows import BadRow, Row

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ENDPOINTS = {CHAT: CHAT, TEXT: TEXT, "/chat/completions": CHAT, "/completions": TEXT}  # Azure's too
FIELDS = ("custom_id", "method", "url", "body")
RESPONSE = ("id", "custom_id", "response", "error")  # what an output row has
# accepted at these values only: they ask for the default, or matter to a hosted service alone
IDLE: dict[str, tuple[Any, ...] | None] = {
    "model": None,
    "user": None,
    "metadata": None,
    "store": None,
    "service_tier": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "stream": (False,),
    "echo": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "suffix": ("",),
}
RENAMED = {"max_completion_tokens": "max_tokens"}
SAID = ("text", "samples", "finish_reason", "logprobs", "cumulative_logprob")  # in the response
STATUS_CODES = {"bad_row": 400, "too_long": 400, "failed": 500}


def is_batch(fields: dict[str, Any]) -> bool:
    """Whether a row is a request in this format."""
    return "custom_id" in fields and "url" in fields and "body" in fields


def parse(fields: dict[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """A request's kind, its prompt and its parameters.

    Returns:
        "prompt", "messages" or "prompt_token_ids"; the value; parameters by name, those of
        sampling and those of the chat template (`chat_columns.NAMES`).

    Raises:
        InvalidRequestError: it can't be served as it is.
    """
    url, body = _endpoint(fields), fields["body"]
    if url is None:
        raise InvalidRequestError(f"url must be {CHAT} or {TEXT}, not {fields['url']!r}")
    if str(fields.get("method", "POST")).upper() != "POST":
        raise InvalidRequestError(f"method must be POST, not {fields['method']!r}")
    if not isinstance(body, dict):
        raise InvalidRequestError(f"body must be an object, not {body!r}")
    given = {name: value for name, value in body.items() if value is not None}
    own = "messages" if url == CHAT else "prompt"
    if own not in given:
        raise InvalidRequestError(f"the body of {url} needs {own}, which is not there")
    prompt = given.pop(own)
    if url != CHAT:
        return *_text(prompt), _parameters(given, url)
    options = _chat_options(given)
    return "messages", _chat(prompt), {**_parameters(given, url), **options}


def _endpoint(fields: dict[str, Any]) -> str | None:
    """What a request asks for, `CHAT` or `TEXT`; None if it is neither."""
    url = fields["url"]
    return ENDPOINTS.get(url) if isinstance(url, str) else None


def _chat(messages: Any) -> list[Any]:
    if not isinstance(messages, list):
        raise InvalidRequestError(f"messages must be a list, not {messages!r}")
    return messages


def _chat_options(given: dict[str, Any]) -> dict[str, Any]:
    """Take out of a chat's body what its template is given.

    What a choice of tools asks of the answer can't be promised: it is text, with calls in it as the
    model writes them.
    """
    found = {name: given.pop(name) for name in CHAT_NAMES if name in given}
    choice = given.pop("tool_choice", "auto")
    if choice == "none":
        found.pop("tools", None)
    elif choice != "auto":
        raise InvalidRequestError(
            f"tool_choice = {choice!r} can't be served; give 'auto' or 'none', or constrain the "
            "answer by response_format"
        )
    if found.get("tools") and given.get("parallel_tool_calls") is False:
        raise InvalidRequestError("parallel_tool_calls = False can't be served with tools")
    return found


def _text(prompt: Any) -> tuple[str, Any]:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return "prompt", prompt
    if isinstance(prompt, list) and not any(isinstance(one, str | list) for one in prompt):
        return "prompt_token_ids", prompt
    raise InvalidRequestError("prompt must be one text or one list of token ids; give each a row")


def _parameters(given: dict[str, Any], url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    chat = url == CHAT
    if chat and ("logprobs" in given or "top_logprobs" in given):
        wanted, likeliest = given.pop("logprobs", False), given.pop("top_logprobs", 0)
        if not isinstance(wanted, bool):
            raise InvalidRequestError(f"logprobs must be true or false in a chat, not {wanted!r}")
        if likeliest and not wanted:
            raise InvalidRequestError("top_logprobs needs logprobs: true")
        if wanted:
            found["logprobs"] = likeliest
    found.update(from_response_format(given.pop("response_format", None)))
    for name, value in given.items():
        if name in IDLE:
            allowed = IDLE[name]
            if allowed is not None and value not in allowed:
                raise InvalidRequestError(f"{name} = {value!r} can't be served; leave it out")
        else:
            known = RENAMED.get(name, name)
            if known not in KNOWN:
                chat_names = [*CHAT_NAMES, "tool_choice"] if chat else []
                names = sorted([*KNOWN, *IDLE, *RENAMED, *chat_names])
                raise InvalidRequestError(
                    f"unknown parameter {name!r} in body; {hint(name, names)}"
                )
            if found.setdefault(known, value) != value:
                both = " and ".join(one for one in given if RENAMED.get(one, one) == known)
                raise InvalidRequestError(
                    f"{both} are the same parameter, with the values {found[known]!r} and "
                    f"{value!r}; give one of them"
                )
    return found


def response(number: int, fields: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The output row of a request.

    Args:
        number: of the row.
        fields: the request.
        result: what the job would write under its own key for any other row.
    """
    code = STATUS_CODES.get(result["status"], 200)
    body = _error(result) if code != 200 else _body(number, fields, result)
    return {
        "id": f"batch_req_{number}",
        "custom_id": fields["custom_id"],
        "response": {"status_code": code, "request_id": f"req_{number}", "body": body},
        "error": None,
    }


def output_row(row: Row | BadRow, result: dict[str, Any], key: str, plain: bool) -> dict[str, Any]:
    """What is written for any row: its columns with the result, or a response to a request.

    A response keeps the result's status and counts under the key, beside what OpenAI's have, and
    any extra columns of the request, such as the expected answer.

    Args:
        row: of the input.
        result: its result.
        key: the name that results have.
        plain: whether requests are rows like others.
    """
    if plain or not isinstance(row, Row) or not is_batch(row.fields):
        return {**row.fields, key: result}
    counts = {name: value for name, value in result.items() if name not in SAID}
    said = response(row.number, row.fields, result)
    own = {name: row.fields[name] for name in row.fields if name not in (*FIELDS, *RESPONSE)}
    return {**said, **own, key: counts}


def _error(result: dict[str, Any]) -> dict[str, Any]:
    kind = "server_error" if result["status"] == "failed" else "invalid_request_error"
    message = result.get("error", "the request failed")
    return {"error": {"message": message, "type": kind, "param": None, "code": result["status"]}}


def _body(number: int, fields: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    chat = _endpoint(fields) == CHAT
    asked = fields["body"]
    top = asked.get("top_logprobs" if chat else "logprobs") or 0
    prompt, output = result["prompt_tokens"], result["output_tokens"]
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{number}",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": asked.get("model"),
        "choices": [_choice(at, one, chat, top) for at, one in enumerate(completions(result))],
        "usage": usage,
    }


def _choice(index: int, one: dict[str, Any], chat: bool, top: int) -> dict[str, Any]:
    reason = "length" if one["finish_reason"] == "length" else "stop"
    entries = one.get("logprobs")
    if chat:
        message = {"role": "assistant", "content": one["text"], "refusal": None}
        logs = None if entries is None else chat_logprobs(entries, top)
        said: dict[str, Any] = {"message": message}
    else:
        logs = None if entries is None else completion_logprobs(entries, top)
        said = {"text": one["text"]}
    return {"index": index, **said, "logprobs": logs, "finish_reason": reason}
