"""What a chat template is given beside the messages, by names known from transformers and vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

from stoker.errors import InvalidRequestError, short


@dataclass(frozen=True)
class ChatOptions:
    """What a chat template is given beside the messages; all of it as in transformers.

    Attributes:
        tools: JSON schemas of functions that the model may call (or, from Python, functions with
            type hints and a docstring).
        template_kwargs: variables of the template's own, such as enable_thinking.
        add_generation_prompt: end with the beginning of an answer. None is True, unless the final
            message is to be continued.
        continue_final_message: leave the last message open; the answer goes on where it ends.
        chat_template: a template's text, or the name of one that the model has. None takes the one
            named tool_use where there are tools, else the default.
    """

    tools: Seq[Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template: str | None = None

    @property
    def generation_prompt(self) -> bool:
        given = self.add_generation_prompt
        return not self.continue_final_message if given is None else given


PLAIN = ChatOptions()


def schemas(tools: Any) -> list[Any] | None:
    """The tools as JSON schemas; None if there are none, as templates ask.

    Args:
        tools: JSON schemas, or functions with type hints and a docstring.

    Raises:
        InvalidRequestError: one is neither; the message has its index.
    """
    if tools is None:
        return None
    if isinstance(tools, str | Mapping) or not isinstance(tools, Iterable):
        raise InvalidRequestError(f"tools must be a list of functions' schemas, not {short(tools)}")
    return [_schema(tool, f"tools[{at}]") for at, tool in enumerate(tools)] or None


def _schema(tool: Any, where: str) -> Any:
    if isinstance(tool, Mapping):
        return dict(tool)
    if not callable(tool):
        raise InvalidRequestError(
            f'{where} must be like {{"type": "function", "function": {{"name": "...", '
            f'"parameters": {{...}}}}}}, not {short(tool)}'
        )
    from transformers.utils import get_json_schema

    try:
        return get_json_schema(tool)
    except Exception as problem:  # its type hints or its docstring lack something
        raise InvalidRequestError(f"{where}: {problem}") from None
