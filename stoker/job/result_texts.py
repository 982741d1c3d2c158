"""The texts of a row's answers, wherever the form of its result has put them.

One completion stands in the result itself, several under `samples`, and those of an OpenAI batch
file in the row's `response`. Knows rows as plain dicts; what compares, shows or counts answers
reads them here.
"""

from __future__ import annotations

from typing import Any


def completions(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The completions in a result, with their texts, reasons and log-probabilities."""
    found: list[dict[str, Any]] = result.get("samples", [result])
    return found


def answers(fields: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """The texts of a row's answers; none if it has none.

    Args:
        fields: the row's columns, of the input or as they stand in the output.
        result: what the job wrote under its own key.
    """
    texts = [str(one["text"]) for one in completions(result) if one.get("text") is not None]
    response = fields.get("response")
    if texts or not isinstance(response, dict):
        return texts
    choices = (response.get("body") or {}).get("choices", [])
    return [str(one["text"] if "text" in one else one["message"]["content"]) for one in choices]


def as_text(fields: dict[str, Any], result: dict[str, Any]) -> str | None:
    """The answers as one text, to be read by a person; several are numbered."""
    texts = answers(fields, result)
    if len(texts) < 2:
        return texts[0] if texts else None
    return "\n\n".join(f"[{at}] {text}" for at, text in enumerate(texts, 1))


def own_columns(fields: dict[str, Any]) -> dict[str, Any]:
    """The columns that came with the row: all but the response to a request of a batch file."""
    if "custom_id" not in fields or "response" not in fields:
        return fields
    return {name: value for name, value in fields.items() if name not in ("response", "error")}
