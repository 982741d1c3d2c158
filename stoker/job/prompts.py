"""Make a row's prompt from its columns, and its sampling parameters.

Handles templates, chats and the OpenAI batch format. The job calls it for each row, and for the
first few rows before the model is loaded.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from stoker.engine.request.params import SamplingParams
from stoker.engine.text.chat_options import PLAIN, ChatOptions
from stoker.errors import InvalidRequestError, JobError
from stoker.job import batch_format
from stoker.job.chat_columns import NAMES as CHAT_COLUMNS
from stoker.job.chat_columns import chat_options
from stoker.job.overrides import Overrides
from stoker.job.rows import BadRow, Row
from stoker.job.sources import Source, open_source
from stoker.job.template import MissingColumnError, Template

KINDS = ("prompt", "messages", "prompt_token_ids")
SAMPLING = "sampling"  # the column of a row's own sampling parameters
TRIED = 20  # rows that are tried before the model is loaded

Message = dict[str, Any]


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are made; the same text and examples for every row.

    Attributes:
        template: Jinja over the columns; None takes the row's own prompt.
        origin: where the template is from, for messages.
        system: Jinja over the columns, for a system message before the chat.
        examples: questions and answers that go before the row's own, as turns of the chat.
        chat_template_kwargs: variables of the chat template, for rows that say nothing else.
    """

    template: str | None = None
    origin: str = "--prompt"
    system: str | None = None
    examples: tuple[tuple[str, str], ...] = ()
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowPrompt:
    """A row's prompt and sampling parameters.

    Attributes:
        kind: one of `KINDS`.
        value: a text, the messages of a chat, or token ids.
        params: its sampling parameters; a seed among them replaces the row's own.
        chat: what the chat template is given beside the messages.
    """

    kind: str
    value: Any
    params: SamplingParams
    chat: ChatOptions = PLAIN


class PromptBuilder:
    """Makes a `RowPrompt` of each row.

    Args:
        settings: how.
        params: the parameters of rows that say nothing else.
        chat: whether a plain prompt is sent as a user message.

    Raises:
        InvalidRequestError: a template's syntax is wrong, or there are messages but no chat.
    """

    def __init__(self, settings: PromptSettings, params: SamplingParams, chat: bool) -> None:
        if not chat and (settings.system is not None or settings.examples):
            what = "--system" if settings.system is not None else "--examples"
            raise InvalidRequestError(
                f"{what} needs a model with a chat template, and no --raw; without it write the "
                "text into the prompt itself (--prompt, --prompt-file)"
            )
        if not chat and settings.chat_template_kwargs:
            raise InvalidRequestError(
                "--chat-template-kwargs needs a model with a chat template, and no --raw"
            )
        self._chat = chat
        self._template_kwargs = settings.chat_template_kwargs
        self._overrides = Overrides(params)
        self._template = self._system = None
        if settings.template is not None:
            self._template = Template(settings.template, settings.origin)
        if settings.system is not None:
            self._system = Template(settings.system, "--system")
        self._examples: list[Message] = [
            {"role": role, "content": content}
            for example in settings.examples
            for role, content in zip(("user", "assistant"), example, strict=True)
        ]

    def check_columns(self, columns: Iterable[str]) -> None:
        """See that the templates read columns; see `Template.check_columns`."""
        if self._template is not None:
            self._template.check_columns(columns)
        if self._system is not None:  # which may be the same for all rows
            self._system.check_forms(columns)

    def ask(self, row: Row) -> RowPrompt:
        """Build the row's prompt.

        Raises:
            InvalidRequestError: the row has no prompt, more than one, or unknown parameters.
        """
        fields = _without_nulls(row.fields) if row.filled else row.fields
        try:
            if self._template is None and batch_format.is_batch(fields):
                kind, value, given = batch_format.parse(fields)
                options = PLAIN
                if kind == "messages":
                    options = chat_options(given, self._template_kwargs)
                    given = {name: given[name] for name in given if name not in CHAT_COLUMNS}
                return RowPrompt(kind, value, self._overrides.apply(given, "body"), options)
            params = self._overrides.apply(fields.get(SAMPLING))
            kind, value = self._prompt(row, fields)
            if kind != "messages":
                return RowPrompt(kind, value, params)
            own = self._template is None and fields.get("messages") is not None  # else data
            options = chat_options(fields if own else {}, self._template_kwargs)
            return RowPrompt(kind, self._messages(row, value), params, options)
        except InvalidRequestError as problem:
            raise type(problem)(f"{row.place}: {problem}" if row.place else str(problem)) from None

    def _prompt(self, row: Row, fields: dict[str, Any]) -> tuple[str, Any]:
        if self._template is not None:
            kind, value = "prompt", self._template.render(row.fields)
        elif row.text:
            kind, value = "prompt", row.fields[row.text]
        else:
            kind, value = own_prompt(fields)
        if kind == "prompt" and not value:
            raise InvalidRequestError("the prompt is empty; it needs some text")
        if kind == "prompt" and self._chat:
            return "messages", [{"role": "user", "content": value}]
        if kind == "prompt_token_ids" and (self._system is not None or self._examples):
            raise InvalidRequestError(
                "prompt_token_ids go to the model as they are; leave --system and --examples out"
            )
        return kind, value

    def _messages(self, row: Row, chat: list[Message]) -> list[Message]:
        """The chat with the system message and the examples before it."""
        if self._system is None and not self._examples:
            return chat
        head, rest = chat[:1], chat[1:]
        if not (head and isinstance(head[0], dict) and head[0].get("role") == "system"):
            head, rest = [], chat
            if self._system is not None:
                head = [{"role": "system", "content": self._system.render(row.fields)}]
        return [*head, *self._examples, *rest]


def own_prompt(fields: dict[str, Any]) -> tuple[str, Any]:
    """Return kind and value of the prompt held by the columns themselves.

    Raises:
        InvalidRequestError: there is none, several, or one of the wrong type.
    """
    found = [kind for kind in KINDS if fields.get(kind) is not None]
    if len(found) != 1:
        if not found and {"url", "body"} <= fields.keys():
            raise InvalidRequestError(
                "a request of a batch file needs a custom_id, which its answer is found by"
            )
        have = " and ".join(found) if found else ", ".join(fields) or "nothing"
        remedy = "" if found else "; make a prompt of its columns with --prompt '{{ column }}'"
        raise InvalidRequestError(
            f"a row needs exactly one of {', '.join(KINDS)}; it has {have}{remedy}"
        )
    kind = found[0]
    value = fields[kind]
    if kind != "prompt" and isinstance(value, str):
        value = _listed(kind, value)
    if not isinstance(value, str if kind == "prompt" else list):
        name = "text" if kind == "prompt" else "a list"
        raise InvalidRequestError(
            f"{kind} must be {name}, not {json.dumps(value, default=str)[:80]}"
        )
    return kind, value


def _listed(kind: str, text: str) -> Any:
    """The list in a column that holds its JSON text, as a CSV file does."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            f"{kind} must be a list, or the JSON text of one, not {json.dumps(text)[:80]}"
        ) from None


def _without_nulls(value: Any) -> Any:
    """Objects without their nulls, at any depth."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def read_examples(path: str, settings: PromptSettings, answer: str) -> tuple[tuple[str, str], ...]:
    """Questions and answers from a file with the same columns as the input and one more.

    Args:
        path: a file of any format.
        settings: makes the questions.
        answer: the column with the answers.

    Raises:
        JobError: a row can't be used; examples are few, and all of them count.
    """
    builder = PromptBuilder(
        PromptSettings(settings.template, settings.origin), SamplingParams(), False
    )
    source = open_source(path)

    def pairs() -> Iterator[tuple[str, str]]:
        for row in source.rows():
            if isinstance(row, BadRow):
                raise JobError(f"--examples: {row.error}")
            try:
                ask = builder.ask(row)
            except InvalidRequestError as problem:
                raise JobError(f"--examples: {problem}") from None
            if ask.kind != "prompt":
                raise JobError(f"--examples: {row.place} has {ask.kind}; it needs a prompt")
            reply = row.fields.get(answer)
            if reply is None:
                have = ", ".join(row.fields)
                raise JobError(
                    f"--examples: {row.place} has no answer in the column {answer!r}; name "
                    f"another with --answer-column; the columns are {have}"
                )
            yield ask.value, reply if isinstance(reply, str) else json.dumps(reply)

    return tuple(pairs())


def check_prompts(source: Source, builder: PromptBuilder) -> None:
    """Try the first rows, so that a template that fits none of them fails early.

    Raises:
        JobError: none of them has a column that the template refers to, or it refers to none.
    """
    problem = None
    columns: dict[str, None] = {}
    for row in islice(source.rows(), TRIED):
        if isinstance(row, Row):
            columns |= dict.fromkeys(row.fields)
            try:
                builder.ask(row)
                problem = None
                break
            except MissingColumnError as found:
                problem = problem or found
            except InvalidRequestError:
                problem = None
                break
    if problem is not None:
        raise JobError(f"none of the first rows can be used: {problem}")
    try:
        builder.check_columns(columns)
    except InvalidRequestError as found:
        raise JobError(str(found)) from None


def check_column(source: Source, name: str) -> None:
    """Check that the column with the expected answers exists.

    Raises:
        JobError: none of the first rows has it.
    """
    rows = [row for row in islice(source.rows(), TRIED) if isinstance(row, Row)]
    if rows and not any(name in row.fields for row in rows):
        known = list({column: None for row in rows for column in row.fields})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise JobError(
            f"{source.name}: none of the first rows has the column {name!r} that answers are "
            f"expected in; {hint}the columns are {', '.join(known)}"
        )


def read_template(path: str) -> str:
    """The text of a template file.

    Raises:
        JobError: it can't be read.
    """
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise JobError(f"{path} is not UTF-8; convert it (iconv -t UTF-8)") from None
    except IsADirectoryError:
        raise JobError(f"{path} is a folder; --prompt-file needs a file") from None
    except OSError as problem:
        raise JobError(f"cannot read {path}: {problem.strerror}; check the path") from None
