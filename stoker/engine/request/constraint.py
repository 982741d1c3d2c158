"""What form an answer must have: a JSON schema, a regular expression, a grammar or a choice.

Checks what users pass and makes plain text of it, which is all that params, requests and jobs
carry. Knows neither tokens nor masks; `grammar.py` compiles it. Called by `params.py`.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from stoker.engine.request.checks import items
from stoker.engine.request.schema import prepare_schema
from stoker.errors import InvalidRequestError, StokerError, short

KINDS = ("json_schema", "regex", "grammar", "choice")
# JSON on one line, with or without a blank after commas and colons. Where blanks are free, a
# model that has lost its way writes them until its tokens are used up.
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
LIMITS: dict[str, dict[str, int]] = {  # of the library, where its own, which bound time, are near
    "json_schema": {"max_items_in_row": 20_000, "step_max_items": 500_000},  # 4 a property
    "choice": {"initial_lexer_fuel": 10_000_000},  # 500,000 short texts, of 20 us each
}
TRIED = 8  # bytes of an answer
PATIENCE = 20.0  # seconds for what may come first
TOO_LONG = (
    f"what may come first is not found in {PATIENCE:.0f} s; there may be tokens side by side that "
    "can't be told apart"
)


class Constraint(NamedTuple):
    """One of `KINDS` and its text: a schema or list of texts as JSON, else the source itself."""

    kind: str
    text: str


def make_constraint(
    json_schema: Any = None, regex: Any = None, grammar: Any = None, choice: Any = None
) -> Constraint | None:
    """The constraint that is given; None if none is.

    Raises:
        InvalidRequestError: more than one is given, or one is malformed or does not compile.
    """
    values = zip(KINDS, (json_schema, regex, grammar, choice), strict=True)
    given = {kind: value for kind, value in values if value is not None}
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequestError(
            f"{' and '.join(given)} were given together; an answer can follow one of them"
        )
    [(kind, value)] = given.items()
    if kind == "json_schema":
        text = _schema_text(value)
    elif kind == "choice":
        text = json.dumps(_texts(value), ensure_ascii=False)
    elif isinstance(value, str) and value:
        text = value
    else:
        raise InvalidRequestError(f"{kind} must be a text that is not empty, not {value!r}")
    try:
        text.encode()
    except UnicodeEncodeError as half:
        raise InvalidRequestError(
            f"{kind} is not Unicode: it holds {text[half.start]!r}, half of a surrogate pair"
        ) from None
    constraint = Constraint(kind, text)
    problem = _problem(constraint)
    if problem:
        raise InvalidRequestError(problem)
    return constraint


def library() -> Any:
    """The module llguidance.

    Raises:
        StokerError: it is not installed.
    """
    try:
        import llguidance
    except ImportError as problem:
        raise StokerError(
            "json_schema, regex, grammar and choice need the package llguidance, which can't be "
            f"imported ({problem}); install it with: pip install llguidance"
        ) from problem
    return llguidance


def source(constraint: Constraint) -> str:
    """The constraint in llguidance's own form.

    Raises:
        InvalidRequestError: it is a grammar that can't be read.
    """
    matcher = library().LLMatcher
    kind, text = constraint
    made: str
    try:
        if kind == "json_schema":
            made = matcher.grammar_from_json_schema(text, defaults=LAYOUT)
        elif kind == "regex":
            made = matcher.grammar_from_regex(text)
        elif kind == "choice":
            quoted = (json.dumps(one, ensure_ascii=False) for one in json.loads(text))
            # a token of the grammar, which is one automaton: rules would be tried one by one
            made = matcher.grammar_from_lark("start: CHOICE\nCHOICE: " + " | ".join(quoted))
        else:
            made = library().grammar_from("grammar", text)
    except ValueError as problem:
        raise InvalidRequestError(refusal(kind, str(problem))) from problem
    return made


def new_matcher(tokenizer: Any, constraint: Constraint) -> Any:
    """llguidance's matcher at the start of an answer; see its `is_error`.

    Raises:
        InvalidRequestError: it is a grammar that can't be read.
    """
    limits = library().LLParserLimits(**LIMITS.get(constraint.kind, {}))
    return library().LLMatcher(tokenizer, source(constraint), log_level=0, limits=limits)


def refusal(kind: str, reason: str) -> str:
    """The message about a constraint that does not compile."""
    return f"{kind} does not compile: {reason.strip()}"


@functools.lru_cache(maxsize=256)
def _problem(constraint: Constraint) -> str:
    """Why the constraint does not compile, as far as can be told without a tokenizer."""
    if constraint.kind == "grammar" and "<" in constraint.text:
        return ""  # it may name special tokens, which only a tokenizer knows
    try:
        matcher = new_matcher(_bytewise(), constraint)
    except InvalidRequestError as problem:
        return str(problem)
    if matcher.is_error():
        return refusal(constraint.kind, matcher.get_error())
    if constraint.kind == "grammar" and not begins_in_time(matcher):
        return refusal("grammar", TOO_LONG)
    return _dead_end(matcher, constraint.kind)


def begins_in_time(matcher: Any) -> bool:
    """Whether the library finds out what may come first, which for some grammars takes for ever.

    Of one whose tokens can't be told apart, such as `/a+/ /a+/+`, say. The search goes on in a
    thread of its own then, which nothing waits for.
    """
    begun = matcher.deep_copy()
    thread = threading.Thread(target=begun.compute_bitmask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


def _dead_end(matcher: Any, kind: str) -> str:
    """Why an answer can't be begun, as far as its first bytes tell, of which the least is taken.

    The library meets its limits where an answer comes to them, and not when it compiles.
    """
    begun = bytearray()
    while len(begun) < TRIED and not matcher.is_accepting():
        allowed = int.from_bytes(matcher.compute_bitmask(), "little") & ((1 << 256) - 1)
        reason = matcher.get_error().partition("\n")[0]
        if reason and not reason.startswith("NoExtension"):
            return refusal(kind, reason)
        if not allowed:
            if not begun:
                return f"{kind} has no answer"
            return f"{kind} allows {begun.decode(errors='replace')!r}, where nothing may follow"
        begun.append((allowed & -allowed).bit_length() - 1)
        matcher.consume_token(begun[-1])
    return ""


@functools.cache
def _bytewise() -> Any:
    """A tokenizer whose tokens are the 256 bytes, by their values."""
    return library().LLTokenizer("byte", slices=[])  # which serve large vocabularies


def _schema_text(value: Any) -> str:
    """A schema as JSON text, its keys in the given order, in which answers have them too."""
    if hasattr(value, "model_json_schema"):  # a pydantic model
        value = value.model_json_schema()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as problem:
            raise InvalidRequestError(f"json_schema is not JSON: {problem}") from None
        except RecursionError:
            raise InvalidRequestError("json_schema is nested too deeply to be read") from None
    if not isinstance(value, Mapping | bool):
        raise InvalidRequestError(
            "json_schema must be a JSON object (a dict, or its text), true or false, not "
            f"{short(value)}"
        )
    prepared = prepare_schema(value)
    try:
        return json.dumps(prepared, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise InvalidRequestError(f"json_schema can't be written as JSON: {problem}") from None


def _texts(value: Any) -> list[str]:
    found = items("choice", value)
    for at, text in enumerate(found):
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(
                f"choice must hold texts that are not empty, not {text!r} (at {at} of it)"
            )
    if not found:
        raise InvalidRequestError("choice is empty, so no answer is possible; give some texts")
    return list(dict.fromkeys(found))
