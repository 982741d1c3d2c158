"""What a row's chat template is given, from columns beside `messages` or fields of a request.

Their names are those of vLLM's API. Called by prompts.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stoker.engine.text.chat_options import PLAIN, ChatOptions
from stoker.errors import InvalidRequestError
from stoker.job.overrides import as_object

EXAMPLE = '{"enable_thinking": false}'
NAMES = ("tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


def chat_options(fields: Mapping[str, Any], template_kwargs: Mapping[str, Any]) -> ChatOptions:
    """Read the options of a chat.

    Args:
        fields: the columns of the row, or the parameters of the request.
        template_kwargs: variables of the chat template, for rows that say nothing else.

    Raises:
        InvalidRequestError: one is of another kind.
    """
    given = {name: fields[name] for name in NAMES if fields.get(name) not in (None, "")}
    if not given and not template_kwargs:
        return PLAIN
    own = as_object(given.get("chat_template_kwargs", {}), "chat_template_kwargs", EXAMPLE)
    return ChatOptions(
        _tools(given.get("tools")),
        {**template_kwargs, **own},
        _flag("add_generation_prompt", given.get("add_generation_prompt")),
        bool(_flag("continue_final_message", given.get("continue_final_message"))),
    )


def _tools(value: Any) -> Any:
    """The tools; a table has no place for schemas, so they may be the JSON text of a list."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as problem:
        raise InvalidRequestError(f"tools must be a list or its JSON text: {problem}") from None


def _flag(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be true or false, not {value!r}")
    return value
