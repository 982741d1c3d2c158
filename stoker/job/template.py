"""Texts with places for a row's columns: Jinja templates, compiled once, in a sandbox.

Knows rows' columns and nothing of models. Called by prompts.py.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from stoker.errors import InvalidRequestError

ABSENT = re.compile(r"^'(.+)' is undefined$")


class _NullError(Exception):
    """The template was about to write None."""


class MissingColumnError(InvalidRequestError):
    """A template names a column that the row lacks."""


class Template:
    """A template over a row's columns; `row` holds all of them, for names with spaces.

    Args:
        text: the template.
        origin: where it is from, for messages: "--prompt" or a file.

    Raises:
        InvalidRequestError: its syntax is wrong.
    """

    def __init__(self, text: str, origin: str) -> None:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.origin = origin
        env = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=_written)
        env.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
        for name in ("lipsum", "cycler", "joiner", "dict"):
            del env.globals[name]
        try:
            self._template = env.from_string(text)
        except jinja2.TemplateSyntaxError as problem:
            message = str(problem.message).rstrip(".")
            raise InvalidRequestError(
                f"{origin}, line {problem.lineno}: the template is no Jinja: {message}; "
                "a column is written {{ name }}"
            ) from None
        except _NullError:
            raise InvalidRequestError(f"{origin}: the template writes a null") from None

    def render(self, fields: dict[str, Any]) -> str:
        """The text for a row.

        Raises:
            MissingColumnError: it lacks a column.
            InvalidRequestError: the template failed otherwise.
        """
        import jinja2

        try:
            return self._template.render({"row": fields, **fields})
        except jinja2.UndefinedError as problem:
            message = str(problem.message)
            have = ", ".join(fields) or "none"
            if not (found := ABSENT.match(message)):
                raise InvalidRequestError(
                    f"{self.origin}: the template failed: {message}; the columns are {have}"
                ) from None
            near = difflib.get_close_matches(found[1], fields, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise MissingColumnError(
                f"{self.origin} refers to the column {found[1]!r}, which is not there; {hint}"
                f"the columns are {have}"
            ) from None
        except _NullError:
            nulls = ", ".join(name for name, value in fields.items() if value is None)
            raise InvalidRequestError(
                f"{self.origin} writes a value that is null ({nulls or 'inside a column'}); say "
                "what to write instead: {{ column or '' }}"
            ) from None
        except Exception as problem:  # whatever the template's own arithmetic raises
            kind = type(problem).__name__
            raise InvalidRequestError(
                f"{self.origin}: the template failed on this row: {kind}: {problem}"
            ) from None


def _written(value: Any) -> Any:
    """Refuse None: the text "None" in a prompt is never intended."""
    if value is None:
        raise _NullError
    return value
