"""Show a row's prompt as a person reads it, without tokenizer or chat template.

Used by the report's sample and by `stoker inspect`.
"""

from __future__ import annotations

import json
from typing import Any

from stoker.engine.text.chat_messages import plain_text
from stoker.errors import InvalidRequestError
from stoker.job.batch_format import is_batch
from stoker.job.result_texts import own_columns
from stoker.job.template import Template

PLAIN_TEXT = {"file", "text"}  # the columns of plain text, which is its own prompt


class PromptText:
    """Gives the prompt of a row: the user's message, without what goes before each (system message,
    examples).

    Args:
        template: the job's, from the columns; None where rows have prompts of their own.

    Raises:
        InvalidRequestError: it is no template.
    """

    def __init__(self, template: str | None = None) -> None:
        self._template = None if template is None else Template(template, "--prompt")

    def __call__(self, fields: dict[str, Any]) -> str:
        """The rendered template, the prompt or the chat; of a row that has none, its columns."""
        if self._template is None:
            found = _own(fields)
        else:
            try:
                found = self._template.render(fields)
            except InvalidRequestError:  # so it is a bad row
                found = None
        if found is not None:
            return found
        return json.dumps(own_columns(fields), ensure_ascii=False, default=str)


def _own(fields: dict[str, Any]) -> str | None:
    asked = fields
    if is_batch(fields) and isinstance(fields["body"], dict):
        asked = fields["body"]
    elif fields.keys() <= PLAIN_TEXT and isinstance(fields.get("text"), str):
        return str(fields["text"])
    prompt, chat = asked.get("prompt"), asked.get("messages")
    if isinstance(prompt, str):
        return prompt
    if isinstance(chat, list) and all(isinstance(one, dict) for one in chat):
        return "\n\n".join(f"{one.get('role')}: {_said(one)}" for one in chat)
    return None


def _said(message: dict[str, Any]) -> str:
    """The content of a message, with the tool calls that stand beside it or in its place."""
    text = plain_text(message.get("content"))
    calls = message.get("tool_calls") or message.get("function_call")
    if not calls:
        return text
    shown = json.dumps(calls, ensure_ascii=False, default=str)
    return f"{text}\n{shown}" if text else shown
