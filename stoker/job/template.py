"""Texts with places for a row's columns: Jinja templates, compiled once, in a sandbox.

Knows rows' columns and nothing of models. Called by prompts.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from stoker.errors import InvalidRequestError

ABSENT = re.compile(r"^'(.+)' is undefined$")
ALL = "row"  # the name that all columns have together
# What other languages write for a column: {text}, {0}, {text!r:>9}, %s, %(text)s, $text, ${text}
OTHER_FORMS = re.compile(
    r"(?<!\{)\{(?P<braces>\w*)(?:![rsa])?(?::[^{}\n]{0,20})?\}(?!\})"
    r"|%\((?P<percent>\w+)\)[sdrf]|%[sdr]\b"
    r"|\$\{(?P<shell>\w+)\}|\$(?P<dollar>[A-Za-z_]\w*)"
)


class MissingColumnError(InvalidRequestError):
    """A template names a column, or a field in one, that the row lacks."""


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
        from jinja2 import meta, nodes

        from stoker.job.template_values import Environment, NullError, ObjectError

        self.origin = origin
        env = Environment()
        try:
            self._template = env.from_string(text)
            self._functions = frozenset(env.globals)
            bare = Environment()
            bare.globals.clear()  # a column may have such a name
            tree = bare.parse(text)
            self._names = frozenset(meta.find_undeclared_variables(tree))
            self._literal = "\n".join(one.data for one in tree.find_all(nodes.TemplateData))
        except jinja2.TemplateSyntaxError as problem:
            message = str(problem.message).rstrip(".")
            raise InvalidRequestError(
                f"{origin}, line {problem.lineno}: the template is no Jinja: {message}; "
                "a column is written {{ name }}"
            ) from None
        except NullError:
            raise InvalidRequestError(f"{origin}: the template writes a null") from None
        except ObjectError as problem:
            raise InvalidRequestError(f"{origin}: {_no_value(problem)}") from None

    def render(self, fields: dict[str, Any]) -> str:
        """The text for a row.

        Raises:
            MissingColumnError: it lacks a column, or a field in one.
            InvalidRequestError: the template failed otherwise.
        """
        import jinja2

        from stoker.job.template_values import NullError, ObjectError, as_seen

        try:
            if ALL in self._names:
                seen = as_seen(fields)
                return self._template.render({ALL: seen, **seen})
            seen = {name: as_seen(fields[name]) for name in self._names if name in fields}
            return self._template.render(seen)
        except jinja2.UndefinedError as problem:
            raise self._missing(str(problem.message), fields) from None
        except NullError:
            nulls = ", ".join(name for name, value in fields.items() if value is None)
            raise InvalidRequestError(
                f"{self.origin} writes a value that is null ({nulls or 'inside a column'}); say "
                "what to write instead: {{ column or '' }}"
            ) from None
        except ObjectError as problem:
            raise InvalidRequestError(f"{self.origin}: {_no_value(problem)}") from None
        except Exception as problem:  # whatever the template's own arithmetic raises
            kind = type(problem).__name__
            raise InvalidRequestError(
                f"{self.origin}: the template failed on this row: {kind}: {problem}"
            ) from None

    def _missing(self, message: str, fields: dict[str, Any]) -> MissingColumnError:
        have = ", ".join(fields) or "none"
        if not (found := ABSENT.match(message)):
            return MissingColumnError(
                f"{self.origin} refers to a field that is not there: {message}; the columns are "
                f"{have}"
            )
        near = difflib.get_close_matches(found[1], fields, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return MissingColumnError(
            f"{self.origin} refers to the column {found[1]!r}, which is not there; {hint}"
            f"the columns are {have}"
        )

    def check_columns(self, columns: Iterable[str]) -> None:
        """See that it reads columns, as a template must to make prompts that differ.

        Args:
            columns: those that rows have.

        Raises:
            InvalidRequestError: it reads none, or names one as another language would; the message
                says what may have been meant.
        """
        names, forms = list(columns), self._other_forms()
        if self._names - self._functions or self._names.intersection(names):
            self.check_forms(names)
            return
        named = names[0] if names else "column"
        hint = ""
        for form, name in forms:
            near = difflib.get_close_matches(name, names, n=1)
            if near or not form.startswith("$"):
                named = near[0] if near else named
                hint = f"{form} is not filled in; "
                break
        example = f"{{{{ {named} }}}}" if named.isidentifier() else f'{{{{ row["{named}"] }}}}'
        raise InvalidRequestError(
            f"{self.origin} has no column in it, so all rows would have the same prompt; {hint}"
            f"write a column as {example}; the columns are {', '.join(names) or 'none'}"
        )

    def check_forms(self, columns: Iterable[str]) -> None:
        """See that it names no column as another language would.

        Raises:
            InvalidRequestError: it does, and reads the column nowhere.
        """
        names = list(columns)
        for form, name in self._other_forms():
            if name in names and not self._names & {name, ALL}:
                raise InvalidRequestError(
                    f"{self.origin}: {form} is not filled in; write the column as "
                    f"{{{{ {name} }}}}, and these characters themselves as {{{{ {form!r} }}}}"
                )

    def _other_forms(self) -> list[tuple[str, str]]:
        """What looks like a column in another language, with the name in it ("" if none)."""
        return [
            (found[0], next((name for name in found.groups() if name), ""))
            for found in OTHER_FORMS.finditer(self._literal)
        ]


def _no_value(problem: Exception) -> str:
    return (
        f"the template writes {str(problem)!r}, which is a function of Jinja's and no column; a "
        'column of that name is written {{ row["..."] }}'
    )
