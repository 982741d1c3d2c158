"""What a template sees of a row's columns: plain values, which are written as JSON has them.

Jinja writes Python's notation for whatever is no text ("{'a': None}", "True"), and lets a dict's
methods hide its fields (`order.items`). Here lists and objects are written as JSON wherever they
end up, and a name that only a method has is no field. Called by template.py.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.filters import do_join, do_map
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

HIDDEN_GLOBALS = ("lipsum", "cycler", "joiner", "dict")


class NullError(Exception):
    """The template was about to write None."""


class ObjectError(Exception):
    """The template was about to write something that no column holds, such as a function."""


class Object(dict[str, Any]):
    def __str__(self) -> str:
        return _json(self)


class List(list[Any]):
    def __str__(self) -> str:
        return _json(self)


# What columns are made of, as messages call it; of all else a template sees, methods are meant.
KINDS: dict[type, str] = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "a null",
    Object: "an object",
    List: "a list",
    dict: "an object",
    list: "a list",
    tuple: "a list",
}


def as_seen(value: Any) -> Any:
    """The value with every list and object in it made one that is written as JSON."""
    if isinstance(value, Mapping):
        return Object((name, as_seen(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return List(map(as_seen, value))
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def written(value: Any) -> Any:
    """What `{{ value }}` writes: text as it is, all else as JSON.

    Raises:
        NullError: it is None; the text "None" in a prompt is never intended.
        ObjectError: it is nothing that a column holds.
        UndefinedError: it is not there.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise NullError
    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises
    if isinstance(value, bool | list | tuple | Mapping):
        return _json(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Iterable) and not isinstance(value, LoopContext):
        return _json(list(value))  # of a filter such as map
    raise ObjectError(_name_of(value))


def _name_of(value: Any) -> str:
    name = getattr(value, "__name__", None) or type(value).__name__
    return str(name)


class _Absent(jinja2.StrictUndefined):
    """A column or a field that is not there; says what is."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        thing, name = self._undefined_obj, self._undefined_name
        if thing is missing or self._undefined_hint or type(thing) not in KINDS:
            return str(super()._undefined_message)
        if isinstance(thing, Mapping):
            near = difflib.get_close_matches(str(name), map(str, thing), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            have = f"among {', '.join(map(str, thing))}" if thing else "in an empty object"
            return f"there is no {name!r} {have}{hint}"
        return f"there is no {name!r} in {KINDS[type(thing)]}"


class _Method(_Absent):
    """A method under a name that is no field: absent, unless it is called."""

    __slots__ = ("method",)

    method: Any


class Environment(ImmutableSandboxedEnvironment):
    """Jinja in a sandbox, over plain values."""

    def __init__(self) -> None:
        super().__init__(undefined=_Absent, finalize=written)
        self.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
        self.filters["string"] = _text
        self.filters["join"] = _join
        for name in HIDDEN_GLOBALS:
            del self.globals[name]

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: the field of that name before a method of it."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return self._field(obj, attribute, super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self._field(obj, argument, super().getitem(obj, argument))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(obj, _Method):
            obj = obj.method
        return super().call(context, obj, *args, **kwargs)

    def _field(self, obj: Any, name: Any, value: Any) -> Any:
        if type(obj) not in KINDS or str(name).startswith("_"):  # a thing of Jinja's; not safe
            return value
        if not callable(value) or (isinstance(value, _Absent) and not value._undefined_hint):
            return value
        absent = _Method(obj=obj, name=name)
        absent.method = value
        return absent

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse, with `a ~ b` writing its operands as `{{ a }}{{ b }}` does."""
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Concat):
            node.nodes = [self._as_text(one) for one in node.nodes]
        return tree

    def _as_text(self, node: nodes.Expr) -> nodes.Expr:
        place = {"lineno": node.lineno, "environment": self}
        return nodes.Filter(node, "string", [], [], None, None, **place)


def _text(value: Any) -> str:
    return str(written(value))


@jinja2.pass_context
def _join(context: Context, value: Any, d: str = "", attribute: Any = None) -> str:
    """Jinja's join, of texts as `{{ }}` writes them."""
    if attribute is not None:
        value = do_map(context, value, attribute=attribute)
    return str(do_join(context.eval_ctx, map(_text, value), d))
