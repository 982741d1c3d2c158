"""OpenAI's `response_format` as sampling parameters.

Knows the form of that field alone. Called by whatever reads requests in OpenAI's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.errors import InvalidRequestError

ANY_OBJECT = {"type": "object"}


def from_response_format(value: Any) -> dict[str, Any]:
    """The keywords of `SamplingParams` that a `response_format` asks for; {} for plain text.

    Args:
        value: None, {"type": "text"}, {"type": "json_object"}, or {"type": "json_schema",
            "json_schema": {"schema": ...}} ("name", "description" and "strict" change nothing:
            answers always follow the schema).

    Raises:
        InvalidRequestError: it is something else; the message names the field.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"response_format must be an object, not {value!r}")
    kind = value.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": ANY_OBJECT}
    if kind != "json_schema":
        raise InvalidRequestError(
            f"response_format.type must be text, json_object or json_schema, not {kind!r}"
        )
    given = value.get("json_schema")
    schema = given.get("schema") if isinstance(given, Mapping) else None
    if not isinstance(schema, Mapping | bool):
        raise InvalidRequestError(
            f"response_format.json_schema.schema must be a JSON schema, not {schema!r}"
        )
    return {"json_schema": schema}
