"""Chats as prompts: the model's chat template, which transformers renders.

Chooses the template among those of the model, says what it reads, and finds the form that it
takes a chat in (chat_forms.py). Called by the codec (tokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stoker.engine.text.chat_forms import LEAVES_OUT, forms, losses, with_calls_named
from stoker.engine.text.chat_messages import Chat, check_chat, short
from stoker.errors import InvalidRequestError, ModelError, suggest

# Where models with a processor keep their template; the tokenizer reads neither.
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
# What a template is given by other means than `template_kwargs`.
OWN_ARGUMENTS = ("messages", "tools", "add_generation_prompt", "continue_final_message")
WORD = "stokerprobe"


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
    """

    tools: Seq[Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    @property
    def generation_prompt(self) -> bool:
        given = self.add_generation_prompt
        return not self.continue_final_message if given is None else given


PLAIN = ChatOptions()


def processor_template(folder: Path) -> str | dict[str, str] | None:
    """The chat template that the folder keeps for a processor, or several by name; None if none.

    Raises:
        ModelError: such a file is damaged.
    """
    for name in PROCESSOR_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            fields = json.loads(path.read_text("utf-8-sig"))
            found = fields.get("chat_template")
            if isinstance(found, list):
                found = {one["name"]: one["template"] for one in found}
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as problem:
            raise ModelError(f"{path} holds no chat template: {problem}") from None
        if found is not None and not isinstance(found, str | dict):
            raise ModelError(f"{path}: chat_template must be text, not {short(found)}")
        if found:
            return found
    return None


class TemplateText:
    """One chat template, and what it reads.

    Raises:
        ModelError: it is no template.
    """

    def __init__(self, text: str) -> None:
        import jinja2
        from jinja2 import meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        env = ImmutableSandboxedEnvironment(extensions=[_generation(), "jinja2.ext.loopcontrols"])
        env.globals |= {"raise_exception": None, "strftime_now": None}
        try:
            env.from_string(text)  # finds what parsing alone does not, such as unknown filters
            self.variables = frozenset(meta.find_undeclared_variables(env.parse(text)))
        except jinja2.TemplateSyntaxError as problem:
            raise ModelError(
                f"the model's chat template is no Jinja: line {problem.lineno}: {problem.message}; "
                "send plain prompts (--raw on the command line)"
            ) from None
        self.text = text

    def check(self, options: ChatOptions) -> None:
        """Refuse what the template would ignore.

        Raises:
            InvalidRequestError: it has no place for tools, or for a variable.
        """
        known = self.variables.difference(OWN_ARGUMENTS)
        if options.tools and "tools" not in self.variables:
            raise InvalidRequestError(
                "tools: the model's chat template does not read them; it reads messages and "
                f"{', '.join(sorted(known)) or 'nothing else'}"
            )
        for name in options.template_kwargs:
            if name in OWN_ARGUMENTS:
                raise InvalidRequestError(
                    f"chat_template_kwargs: {name} is no variable of the template's own; give it "
                    "beside them"
                )
            if name not in known:
                raise InvalidRequestError(
                    f"chat_template_kwargs: the model's chat template does not read {name!r}; "
                    f"{suggest(name, [*known])}"
                )


def _generation() -> Any:
    """Jinja's extension for `{% generation %}`, which marks answers for training."""
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # as Jinja has it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: transformers', with at least one template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[str, TemplateText] = {}

    def template(self, options: ChatOptions) -> TemplateText:
        """The template for a chat: with tools the one named tool_use, else the one named default.

        Raises:
            InvalidRequestError: there are several and none of these.
            ModelError: it is no template.
        """
        try:
            text = self._tokenizer.get_chat_template(tools=options.tools)
        except ValueError:
            names = ", ".join(sorted(self._tokenizer.chat_template))
            raise InvalidRequestError(
                f"the model has chat templates named {names}, and none named default"
            ) from None
        if text not in self._texts:
            self._texts[text] = TemplateText(text)
        return self._texts[text]

    @cached_property
    def _needs_parts(self) -> bool:
        """Whether the template takes content as a list of parts alone, and drops a text."""

        def tried(content: Any) -> bool:
            try:
                return WORD in self._apply([{"role": "user", "content": content}], PLAIN)
            except Exception:  # whatever a template does with what it does not expect
                return False

        return not tried(WORD) and tried([{"type": "text", "text": WORD}])

    def render(self, messages: Iterable[Any], options: ChatOptions, where: str) -> str:
        """The prompt that the template makes of the messages.

        Raises:
            InvalidRequestError: the messages are not a chat, the template refuses them or leaves
                part of them out, or an option has no effect.
            ModelError: the template is none.
        """
        chat = check_chat(messages, where)
        if options.add_generation_prompt and options.continue_final_message:
            raise InvalidRequestError(
                "add_generation_prompt begins an answer and continue_final_message goes on with "
                "one; leave one of them out"
            )
        options = replace(options, tools=_schemas(options.tools))
        self.template(options).check(options)
        refused: Exception | None = None
        lost: list[list[str]] = []
        for form in forms(chat, self._needs_parts):
            try:
                text = self._apply(form, options)
            except Exception as problem:  # templates raise whatever they like
                refused = refused or problem
                continue
            found = losses(form, text, where) or self._dropped_calls(form, options, where)
            if not found:
                return text
            lost.append(found)
        if lost:  # what is left out in one form cannot be mended by another
            found = next((one for one in lost if LEAVES_OUT in one[0]), lost[0])
            raise InvalidRequestError("; ".join(found))
        assert refused is not None
        raise InvalidRequestError(self._told(chat, options, refused, where)) from refused

    def _apply(self, chat: Chat, options: ChatOptions) -> str:
        tokenizer = self._tokenizer
        how = {
            "tools": options.tools,
            "add_generation_prompt": options.generation_prompt,
            "continue_final_message": options.continue_final_message,
            **options.template_kwargs,
        }
        if all(message.get("content", "") is not None for message in chat):
            text: str = tokenizer.apply_chat_template(chat, tokenize=False, **how)
            return text
        # the tokenizer would leave out a content that is None, which some templates ask for
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self.template(options).text
        how = {**tokenizer.special_tokens_map, **how}
        rendered, _ = render_jinja_template(conversations=[chat], chat_template=template, **how)
        return str(rendered[0])

    def _dropped_calls(self, form: Chat, options: ChatOptions, where: str) -> list[str]:
        """The calls that the template leaves out, where their words are in the prompt anyway.

        With tools the names of functions and arguments are there, so the chat is rendered once more
        with names that only the calls have.
        """
        if not options.tools or not any("tool_calls" in message for message in form):
            return []
        try:
            text = self._apply(with_calls_named(form, WORD), options)
        except Exception:  # it looks functions up by name, so it reads them
            return []
        return losses(with_calls_named(form, WORD), text, where)

    def _told(self, chat: Chat, options: ChatOptions, problem: Exception, where: str) -> str:
        """What to say of an error of the template, with the first message that brings it about."""
        first, last = 1, len(chat)  # the chat up to `last` fails like all of it
        while first < last:
            middle = (first + last) // 2
            if self._fails_alike(chat[:middle], options, problem):
                last = middle
            else:
                first = middle + 1
        role = chat[last - 1]["role"]
        return f"the chat template refused {where}[{last - 1}] (role {role!r}): {problem}"

    def _fails_alike(self, chat: Chat, options: ChatOptions, problem: Exception) -> bool:
        try:
            self._apply(next(forms(chat, self._needs_parts)), options)
        except Exception as other:
            return str(other) == str(problem)
        return False


def _schemas(tools: Any) -> list[Any] | None:
    """The tools as JSON schemas; None if there are none, as templates ask."""
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
