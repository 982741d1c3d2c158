"""Sampling parameters given as JSON, beside the command line's: `--sampling`, a row's `sampling`.

Names are those of `SamplingParams`; others are refused. Called by prompts.py and the commands.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from stoker.engine.request.checks import known_names
from stoker.engine.request.other_names import hint
from stoker.engine.request.params import RepetitionDetectionParams, SamplingParams
from stoker.errors import InvalidRequestError

BARRED = ("logits_processors", "prompt_logprobs")  # no JSON; no place in a result
KNOWN = [field.name for field in dataclasses.fields(SamplingParams) if field.name not in BARRED]
# a null for one of these, which None is no value of, is as if it were not there
NEVER_NULL = [
    one.name for one in dataclasses.fields(SamplingParams) if one.type in ("int", "float", "bool")
]
KEPT = 1024  # sets of parameters that are remembered


class Overrides:
    """Makes parameters of `base` with some changed; equal changes give the same object."""

    def __init__(self, base: SamplingParams) -> None:
        self.base = base
        self._made: dict[str, SamplingParams] = {}

    def apply(self, given: Any, where: str = "sampling") -> SamplingParams:
        """The base with the changes.

        Args:
            given: names and values, as an object or as the JSON text of one; None for no change.
            where: what to call them in messages.

        Raises:
            InvalidRequestError: an unknown name, or a value out of range.
        """
        if given is None or given == "":
            return self.base
        changes = as_object(given, where)
        key = json.dumps(changes, sort_keys=True)
        if key not in self._made:
            if len(self._made) >= KEPT:
                self._made.clear()
            self._made[key] = self._change(changes, where)
        return self._made[key]

    def _change(self, changes: dict[str, Any], where: str) -> SamplingParams:
        for name in changes:
            if name not in KNOWN:
                raise InvalidRequestError(
                    f"unknown sampling parameter {name!r} in {where}; {hint(name, KNOWN)}"
                )
        given = {k: v for k, v in changes.items() if v is not None or k not in NEVER_NULL}
        try:
            return dataclasses.replace(self.base, **{k: _typed(k, v) for k, v in given.items()})
        except InvalidRequestError as problem:
            raise InvalidRequestError(f"{where}: {problem}") from None


def as_object(given: Any, where: str, example: str = '{"max_tokens": 64}') -> dict[str, Any]:
    """Names and values, given as an object or as the JSON text of one.

    Args:
        where, example: what to call them, and what they may be like, in messages.

    Raises:
        InvalidRequestError: it is neither.
    """
    found = given
    if isinstance(given, str):
        try:
            found = json.loads(given)
        except (ValueError, RecursionError) as problem:
            raise InvalidRequestError(
                f"{where} must be a JSON object such as {example}, which {given!r} is not: "
                f"{problem}"
            ) from None
    if not isinstance(found, Mapping):
        raise InvalidRequestError(f"{where} must be an object such as {example}, not {given!r}")
    return dict(found)


def _typed(name: str, value: Any) -> Any:
    """A value of JSON as the parameter has it."""
    if name == "logit_bias" and isinstance(value, dict):
        try:
            return {int(token): bias for token, bias in value.items()}
        except ValueError:
            raise InvalidRequestError(
                f"logit_bias must map token ids to numbers, not {value!r}"
            ) from None
    if name == "repetition_detection" and isinstance(value, dict):
        known_names(RepetitionDetectionParams, value, "parameter of repetition_detection")
        try:
            return RepetitionDetectionParams(**value)
        except TypeError as problem:
            raise InvalidRequestError(f"repetition_detection: {problem}") from None
    return value
