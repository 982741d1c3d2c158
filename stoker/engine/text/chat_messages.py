"""Chat messages as callers write them, checked and made alike: dicts without nulls.

Callers bring OpenAI's form, transformers' form and objects of clients; a table fills what a message
lacks with nulls. Knows no template; chat_forms.py goes on from here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from stoker.errors import InvalidRequestError, short

Message = dict[str, Any]
Chat = list[Message]

# Part types that are text, and the field which holds it.
TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
# The names that a message's reasoning goes by; templates read the first, or the second.
REASONING = ("reasoning_content", "thinking", "reasoning")
TOOL_ROLES = ("tool", "function", "ipython")


def check_chat(messages: Iterable[Any], where: str = "messages") -> Chat:
    """Return the messages as dicts in one form: no nulls, parts as {"type": "text", "text": ...}.

    Args:
        where: what to call the list in messages of errors.

    Raises:
        InvalidRequestError: it is not a chat; the message names the index and the field.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise InvalidRequestError(f"{where} must be a list of messages, not {short(messages)}")
    chat = [_message(item, f"{where}[{at}]") for at, item in enumerate(messages)]
    if not chat:
        raise InvalidRequestError(f"{where}: the chat is empty; it needs at least one message")
    return chat


def plain_text(content: Any) -> str:
    """The text of a message's content: its parts joined, "" where there is none.

    Of a part that is no text its type is shown, as in "[image_url]".
    """
    if not isinstance(content, list):
        return "" if content is None else str(content)
    texts = []
    for part in content:
        if isinstance(part, Mapping):
            kind = str(part.get("type") or "text")
            texts.append(str(part.get(TEXT_PARTS[kind])) if kind in TEXT_PARTS else f"[{kind}]")
        else:
            texts.append(str(part))
    return "".join(texts)


def _message(item: Any, where: str) -> Message:
    dump = getattr(item, "model_dump", None)  # of OpenAI's client, or any pydantic model
    if callable(dump):
        item = dump()
    if not isinstance(item, Mapping):
        raise InvalidRequestError(
            f'{where} must be an object such as {{"role": "user", "content": "..."}}, not '
            f"{short(item)}"
        )
    message = {name: value for name, value in item.items() if value is not None}
    if "role" not in message:
        have = ", ".join(map(str, message)) or "nothing"
        raise InvalidRequestError(f"{where} has no role, such as 'user'; it has {have}")
    role = message["role"]
    if not isinstance(role, str) or not role:
        raise InvalidRequestError(f"{where}.role must be a text such as 'user', not {short(role)}")
    _set_calls(message, role, where)
    reasoning = next((message[name] for name in REASONING if name in message), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    if "content" not in message and "refusal" in message:
        message["content"] = message["refusal"]
    if "content" in message:
        message["content"] = _content(message["content"], role, f"{where}.content")
    elif "tool_calls" not in message and reasoning is None:
        or_calls = " and no tool_calls" if role == "assistant" else ""
        raise InvalidRequestError(f"{where} (role {role!r}) has no content{or_calls}")
    return message


def _content(content: Any, role: str, where: str) -> Any:
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return [_part(part, f"{where}[{at}]") for at, part in enumerate(content)]
    if isinstance(content, Mapping) and role in TOOL_ROLES:
        return dict(content)
    hint = "; write it as JSON text" if role in TOOL_ROLES else ""
    raise InvalidRequestError(
        f"{where} must be text or a list of text parts, not {short(content)}{hint}"
    )


def _part(part: Any, where: str) -> Message:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise InvalidRequestError(
            f'{where} must be an object such as {{"type": "text", "text": "..."}}, not '
            f"{short(part)}"
        )
    kind = part.get("type") or ("text" if "text" in part else None)
    field = TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise InvalidRequestError(
            f"{where} is a part of the type {short(kind)}; only text can be served"
        )
    text = part.get(field)
    if not isinstance(text, str):
        raise InvalidRequestError(f"{where}.{field} must be text, not {short(text)}")
    return {"type": "text", "text": text}


def _set_calls(message: Message, role: str, where: str) -> None:
    """Check the tool calls of a message and give them arguments; drop an empty list."""
    where = f"{where}.tool_calls"
    calls = message.get("tool_calls", [])
    if "function_call" in message and not calls:  # what the API had before tools
        calls = [{"type": "function", "function": message.pop("function_call")}]
    if not isinstance(calls, list | tuple):
        raise InvalidRequestError(f"{where} must be a list of calls, not {short(calls)}")
    if not calls:
        message.pop("tool_calls", None)
        return
    if role != "assistant":
        raise InvalidRequestError(f"{where}: only an assistant calls tools, not {role!r}")
    message["tool_calls"] = [_call(call, f"{where}[{at}]") for at, call in enumerate(calls)]


def _call(call: Any, where: str) -> Message:
    found = (
        {name: value for name, value in call.items() if value is not None}
        if isinstance(call, Mapping)
        else {}
    )
    function = found.get("function", found)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(
            f'{where} must be like {{"type": "function", "function": {{"name": "...", '
            f'"arguments": {{...}}}}}}, not {short(call)}'
        )
    arguments = function.get("arguments")
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    if not isinstance(arguments, str | Mapping):
        raise InvalidRequestError(
            f"{where}.function.arguments must be an object or its JSON text, not {short(arguments)}"
        )
    if isinstance(arguments, Mapping):
        arguments = dict(arguments)
        try:
            json.dumps(arguments, skipkeys=True, default=str)
        except (ValueError, RecursionError) as problem:
            raise InvalidRequestError(
                f"{where}.function.arguments cannot be written as JSON: {problem}"
            ) from None
    if "function" in found:
        return {**found, "function": {**function, "arguments": arguments}}
    return {**found, "arguments": arguments}
