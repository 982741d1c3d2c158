"""Prompts and parameters as callers write them, made uniform: text and token ids, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

from stoker.engine.request.params import SamplingParams
from stoker.engine.text.tokenizer import Encoded, Prompt, TextCodec
from stoker.errors import InvalidRequestError

Prompts = Prompt | Seq[Prompt]
Params = SamplingParams | Seq[SamplingParams] | None


def as_list(prompts: Prompts) -> list[Prompt]:
    """Return one prompt or several as a list that is not empty.

    Raises:
        InvalidRequestError: there are none, or `prompts` is of another type.
    """
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if isinstance(prompts, Iterable):
        items: list[Any] = list(prompts)
        if not items:
            raise InvalidRequestError("the list of prompts is empty; pass at least one prompt")
        return [items] if all(isinstance(item, int) for item in items) else items
    raise InvalidRequestError(f"prompts must be text, token ids or a list, not {prompts!r}")


def as_chats(messages: Seq[Any]) -> Any:
    """Return one chat (a list of messages) or several as a list of chats.

    Raises:
        InvalidRequestError: there are no messages.
    """
    if not messages:
        raise InvalidRequestError("there are no messages; pass a list of them, or of chats")
    return [messages] if isinstance(messages[0], Mapping) else messages


def encode_prompt(text: TextCodec | None, prompt: Prompt) -> Encoded:
    """Return the text (where there is one) and token ids of a prompt in any form.

    Args:
        text: encodes texts; None takes token ids alone.

    Raises:
        InvalidRequestError: the prompt is empty or of another form.
    """
    if isinstance(prompt, Mapping):
        if "prompt_token_ids" in prompt:
            return prompt.get("prompt"), _token_ids(prompt["prompt_token_ids"])
        if "prompt" not in prompt:
            raise InvalidRequestError(
                f"a prompt dict needs 'prompt' or 'prompt_token_ids', not {sorted(prompt)}"
            )
        prompt = prompt["prompt"]
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequestError("the prompt is empty; it needs some text")
        if text is None:
            raise InvalidRequestError("this engine has no tokenizer; pass token ids")
        return prompt, text.encode(prompt)
    return None, _token_ids(prompt)


def spread(params: Params, count: int) -> list[SamplingParams]:
    """Return a `SamplingParams` for each of `count` prompts.

    Raises:
        InvalidRequestError: there are more or fewer, or other things among them.
    """
    if params is None:
        return [SamplingParams()] * count
    if isinstance(params, SamplingParams):
        return [params] * count
    if isinstance(params, str | Mapping) or not isinstance(params, Iterable):
        raise InvalidRequestError(
            f"sampling_params must be a SamplingParams or a list of them, not {params!r}"
        )
    found = list(params)
    if len(found) != count:
        raise InvalidRequestError(
            f"there are {count} prompts and {len(found)} sampling parameters; "
            "pass one for all, or one for each"
        )
    for item in found:
        if not isinstance(item, SamplingParams):
            raise InvalidRequestError(f"sampling_params must hold SamplingParams, not {item!r}")
    return found


def _token_ids(ids: Any) -> list[int]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidRequestError(f"prompt_token_ids must be a list of whole numbers, not {ids!r}")
    found = list(ids)
    for token in found:
        if not isinstance(token, int) or isinstance(token, bool):
            raise InvalidRequestError(f"token ids must be whole numbers, not {token!r}")
    return found
