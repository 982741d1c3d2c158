"""The forms that chat templates take a chat in, and what shows that one was the wrong one.

Templates differ in what they take, and most write nonsense in silence where it is something else:

    content      [{"type": "text", "text": "hi"}]   or   "hi"
    arguments    '{"x": 9}'                         or   {"x": 9}
    no content   left out                           or   ""          or   None
    role         developer                          or   system

So a chat is offered in one form after the other, first as it was given, and the prompt that comes
of it is looked at. Knows no template; chat.py renders.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from stoker.engine.text.chat_messages import TOOL_ROLES, Chat, Message, plain_text
from stoker.errors import short

# A key that no template reads in a part. Where it is in the prompt, the part was written whole. It
# comes first, since a prompt that continues a message is cut behind the text.
PART_MARK = "stoker-part"
LEAVES_OUT = "the chat template leaves out"

Step = Callable[[Message], Message] | None  # None leaves messages as they are


def forms(chat: Chat, wrap: bool) -> Iterator[Chat]:
    """Yield `chat` as it was given, and then in the other forms that a template may need.

    Args:
        chat: from `check_chat`.
        wrap: the template takes parts alone, so texts become parts in what counts as given.
    """
    for steps in itertools.product(
        _content_forms(chat, wrap), _argument_forms(chat), _absent_forms(chat), _role_forms(chat)
    ):
        form = chat
        for step in steps:
            form = form if step is None else [step(message) for message in form]
        yield form


def losses(form: Chat, prompt: str, where: str = "messages") -> list[str]:
    """What `prompt` lacks or garbles of `form`, a sentence each; [] if all is well.

    Only what templates commonly leave out is looked for: parts, tool calls and their results.
    """
    found = []
    for at, message in enumerate(form):
        name, content = f"{where}[{at}]", message.get("content")
        if isinstance(content, list):
            if PART_MARK in prompt or not all(_as_it_is(part["text"], prompt) for part in content):
                found.append(f"the chat template does not take {name}.content as a list of parts")
        elif message["role"] in (*TOOL_ROLES, "developer") and not _occurs(content or "", prompt):
            found.append(f"{LEAVES_OUT} {name}, which has the role {message['role']!r}")
        for number, call in enumerate(message.get("tool_calls", ())):
            found += _call_losses(call, prompt, f"{name}.tool_calls[{number}]")
    return found


def with_calls_named(chat: Chat, word: str) -> Chat:
    """The chat with `word` and a number in place of the function's name in each call."""
    numbers = itertools.count()

    def renamed(call: Message) -> Message:
        function = {**call.get("function", call), "name": f"{word}{next(numbers)}"}
        return {**call, "function": function} if "function" in call else function

    return [
        {**message, "tool_calls": [renamed(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in chat
    ]


def _call_losses(call: Message, prompt: str, name: str) -> list[str]:
    function = call.get("function", call)
    if not _occurs(function["name"], prompt):
        return [f"{LEAVES_OUT} {name}"]
    arguments = function["arguments"]
    if isinstance(arguments, str):
        quoted = (json.dumps(arguments), json.dumps(arguments, ensure_ascii=False))
        if arguments.strip() in prompt and not any(one in prompt for one in quoted):
            return []
        wanted = "the chat template takes them as an object"
        if _parsed(arguments) is None:
            wanted += f", which {short(arguments)} is not"
        return [f"{name}.function.arguments: {wanted}"]
    shown = str(arguments)  # Python's notation
    if shown != _as_json(arguments) and shown in prompt:
        return [f"{name}.function.arguments: the chat template takes them as JSON text"]
    if not all(_occurs(str(key), prompt) for key in arguments):
        return [f"{LEAVES_OUT} {name}.function.arguments"]
    return []


def _as_it_is(text: str, prompt: str) -> bool:
    """Whether `text`, or a word of it, is in the prompt, which does not escape it."""
    word = re.search(r"\w{6,24}", text)
    return text.strip() in prompt or (word is not None and word[0] in prompt)


def _occurs(content: Any, prompt: str) -> bool:
    """Whether a word of `content` is in the prompt, however the template has escaped the rest."""
    if not isinstance(content, str):  # an object of a tool's
        return True
    word = re.search(r"[A-Za-z0-9]{6,24}", content) or re.search(r"[A-Za-z0-9]{1,24}", content)
    return word is None or word[0] in prompt


def _content_forms(chat: Chat, wrap: bool) -> list[Step]:
    if wrap:
        return [_in_parts, _users_in_parts]
    if any(isinstance(message.get("content"), list) for message in chat):
        return [_marked, _users_marked, _joined]
    return [None]


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        message = {**message, "content": [{"type": "text", "text": content}]}
    return _marked(message)


def _users_in_parts(message: Message) -> Message:
    return _in_parts(message) if message["role"] == "user" else _joined(message)


def _marked(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [{PART_MARK: True, **part} for part in content]}


def _users_marked(message: Message) -> Message:
    return _marked(message) if message["role"] == "user" else _joined(message)


def _joined(message: Message) -> Message:
    if not isinstance(message.get("content"), list):
        return message
    return {**message, "content": plain_text(message["content"])}


def _argument_forms(chat: Chat) -> list[Step]:
    given = [
        call.get("function", call)["arguments"]
        for message in chat
        for call in message.get("tool_calls", ())
    ]
    found: list[Step] = [None]
    if any(isinstance(one, str) and _parsed(one) is not None for one in given):
        found.append(lambda message: _with_arguments(message, _as_object))
    if any(not isinstance(one, str) for one in given):
        found.append(lambda message: _with_arguments(message, _as_json))
    return found


def _with_arguments(message: Message, change: Callable[[Any], Any]) -> Message:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        function = {**function, "arguments": change(function["arguments"])}
        calls.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": calls}


def _as_object(arguments: Any) -> Any:
    parsed = _parsed(arguments) if isinstance(arguments, str) else None
    return arguments if parsed is None else parsed


def _as_json(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False, skipkeys=True, default=str)


def _parsed(arguments: str) -> dict[str, Any] | None:
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _absent_forms(chat: Chat) -> list[Step]:
    if not any(_calls_alone(message) or "content" not in message for message in chat):
        return [None]
    null: Message = {"content": None}
    return [
        None,
        lambda one: {"content": "", **one},
        lambda one: {**one, **null} if _calls_alone(one) else {**null, **one},
    ]


def _calls_alone(message: Message) -> bool:
    return "tool_calls" in message and not message.get("content")


def _role_forms(chat: Chat) -> list[Step]:
    if all(message["role"] != "developer" for message in chat):
        return [None]
    return [None, lambda one: {**one, "role": "system"} if one["role"] == "developer" else one]
