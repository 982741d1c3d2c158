"""Chats as prompts: the model's chat template, which transformers renders.

Chooses the template among those of the model, says what it reads, and finds the form that it
takes a chat in (chat_forms.py). Called by the codec (tokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stoker.engine.text.chat_forms import LEAVES_OUT, forms, losses, with_calls_named
from stoker.engine.text.chat_messages import Chat, check_chat
from stoker.engine.text.chat_options import PLAIN, ChatOptions, schemas
from stoker.errors import InvalidRequestError, ModelError, short, suggest

# Where models with a processor keep their template; the tokenizer reads neither.
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
# What a template is given by other means than `template_kwargs`.
OWN_ARGUMENTS = ("messages", "tools", "add_generation_prompt", "continue_final_message")
WORD = "stokerprobe"


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

    Attributes:
        variables: names that it is given values for.
        parts_only: it takes content as a list of parts alone, and drops a text.

    Raises:
        ModelError: it is no template.
    """

    parts_only = False

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
    """The chat templates of a tokenizer.

    Args:
        tokenizer: transformers'.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, TemplateText] = {}

    def template(self, options: ChatOptions) -> TemplateText:
        """The template for a chat.

        Raises:
            InvalidRequestError: there is none, or several and none that is named default, or what
                was given is neither a name nor a template.
            ModelError: it is no template.
        """
        own, given = self._tokenizer.chat_template, options.chat_template
        if not own and given is None:
            raise InvalidRequestError(
                "the model has no chat template; send a plain prompt (--raw on the command line)"
            )
        names = list(own) if isinstance(own, dict) else []
        if given is not None and given not in names and "{" not in given:
            raise InvalidRequestError(
                "chat_template must be the text of a template, or the name of one that the model "
                f"has ({', '.join(names) or 'none'}), not {short(given)}; read the file if it is "
                "one"
            )
        try:
            text = self._tokenizer.get_chat_template(given, options.tools)
        except ValueError:
            raise InvalidRequestError(
                f"the model has chat templates named {', '.join(sorted(names))}, and none named "
                "default; choose one by chat_template"
            ) from None
        if text not in self._known:
            made = TemplateText(text)
            made.parts_only = self._takes_parts_alone(text)
            self._known[text] = made
        return self._known[text]

    def _takes_parts_alone(self, text: str) -> bool:
        def tried(content: Any) -> bool:
            try:
                return WORD in self._apply([{"role": "user", "content": content}], PLAIN, text)
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
        options = replace(options, tools=schemas(options.tools))
        template = self.template(options)
        template.check(options)
        refused: Exception | None = None
        lost: list[list[str]] = []
        for form in forms(chat, template.parts_only):
            try:
                text = self._apply(form, options, template.text)
            except Exception as problem:  # templates raise whatever they like
                refused = refused or problem
                continue
            found = losses(form, text, where)
            found = found or self._dropped_calls(form, options, template.text, where)
            if not found:
                return text
            lost.append(found)
        if lost:  # what is left out in one form cannot be mended by another
            found = next((one for one in lost if LEAVES_OUT in one[0]), lost[0])
            raise InvalidRequestError("; ".join(found))
        assert refused is not None
        at = self._first_refused(chat, options, template, refused)
        raise InvalidRequestError(
            f"the chat template refused {where}[{at}] (role {chat[at]['role']!r}): {refused}"
        ) from refused

    def _apply(self, chat: Chat, options: ChatOptions, template: str) -> str:
        tokenizer = self._tokenizer
        how = {
            "tools": options.tools,
            "add_generation_prompt": options.generation_prompt,
            "continue_final_message": options.continue_final_message,
            **options.template_kwargs,
        }
        if all(message.get("content", "") is not None for message in chat):
            text: str = tokenizer.apply_chat_template(
                chat, chat_template=template, tokenize=False, **how
            )
            return text
        # the tokenizer would leave out a content that is None, which some templates ask for
        from transformers.utils.chat_template_utils import render_jinja_template

        how = {**tokenizer.special_tokens_map, **how}
        rendered, _ = render_jinja_template(conversations=[chat], chat_template=template, **how)
        return str(rendered[0])

    def _dropped_calls(
        self, form: Chat, options: ChatOptions, template: str, where: str
    ) -> list[str]:
        """The calls that the template leaves out, where their words are in the prompt anyway.

        With tools the names of functions and arguments are there, so the chat is rendered once more
        with names that only the calls have.
        """
        if not options.tools or not any("tool_calls" in message for message in form):
            return []
        try:
            text = self._apply(with_calls_named(form, WORD), options, template)
        except Exception:  # it looks functions up by name, so it reads them
            return []
        return losses(with_calls_named(form, WORD), text, where)

    def _first_refused(
        self, chat: Chat, options: ChatOptions, template: TemplateText, problem: Exception
    ) -> int:
        """The index of the message that brings the error of the template about.

        The first that ends a chat which fails alike, found by halves:

            fails alike  no  no  yes  yes  yes        of messages[:1], [:2], ...
                                 index 2
        """

        def fails_alike(part: Chat) -> bool:
            try:
                self._apply(next(forms(part, template.parts_only)), options, template.text)
            except Exception as other:
                return str(other) == str(problem)
            return False

        first, last = 1, len(chat)
        while first < last:
            middle = (first + last) // 2
            if fails_alike(chat[:middle]):
                last = middle
            else:
                first = middle + 1
        return last - 1
