"""Prompts and parameters as callers write them, made uniform: text and token ids, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

from stoker.engine.request.params import SamplingParams
from stoker.engine.request.vectors import PromptVectors
from stoker.engine.text.tokenizer import Encoded, Prompt, TextCodec
from stoker.errors import InvalidRequestError
from stoker.llm.prompt_vectors import as_vectors, is_array, join_parts

Prompts = Prompt | Seq[Prompt]
FORMS = "prompt_token_ids", "prompt_embeds", "prompt_parts"
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


def as_chats(messages: Seq[Any]) -> list[tuple[str, Any]]:
    """Return one chat (a list of messages) or several, each with its name for errors.

    Raises:
        InvalidRequestError: there are no messages.
    """
    if not messages:
        raise InvalidRequestError("there are no messages; pass a list of them, or of chats")
    if not isinstance(messages[0], list | tuple):
        return [("messages", messages)]
    return [(f"messages[{at}]", chat) for at, chat in enumerate(messages)]


def encode_prompt(text: TextCodec | None, prompt: Prompt) -> Encoded:
    """Return the text (where there is one), token ids and vectors of a prompt in any form.

    Args:
        text: encodes texts; None takes token ids alone.

    Raises:
        InvalidRequestError: the prompt is empty or of another form.
    """
    if isinstance(prompt, Mapping):
        form = [name for name in FORMS if name in prompt]
        if len(form) > 1 or not (form or "prompt" in prompt):
            raise InvalidRequestError(
                f"a prompt dict needs one of 'prompt', {', '.join(map(repr, FORMS))}, "
                f"not {sorted(prompt)}"
            )
        if form:
            return Encoded(prompt.get("prompt"), *_parts(form[0], prompt[form[0]]))
        prompt = prompt["prompt"]
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequestError("the prompt is empty; it needs some text")
        if text is None:
            raise InvalidRequestError("this engine has no tokenizer; pass token ids")
        return Encoded(prompt, text.encode(prompt))
    return Encoded(None, _token_ids(prompt))


def as_tokens(prompt: Encoded) -> list[int]:
    """The ids of a prompt that must have no vectors.

    Raises:
        InvalidRequestError: it has some.
    """
    if prompt.vectors is not None:
        raise InvalidRequestError(
            "beam search takes prompts of tokens, and this one has vectors; use generate"
        )
    return prompt.ids


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


def _parts(form: str, value: Any) -> tuple[list[int], PromptVectors | None]:
    if form == "prompt_token_ids":
        return _token_ids(value), None
    if form == "prompt_embeds":
        return join_parts([as_vectors(value, form)])
    if not isinstance(value, list | tuple):
        raise InvalidRequestError(
            f"prompt_parts must be a list of token ids and tensors, not {type(value).__name__}"
        )
    names = [f"prompt_parts[{at}]" for at in range(len(value))]
    return join_parts(
        [
            as_vectors(part, name) if is_array(part) else _token_ids(part, name)
            for name, part in zip(names, value, strict=True)
        ]
    )


def _token_ids(ids: Any, name: str = "prompt_token_ids") -> list[int]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidRequestError(f"{name} must be a list of whole numbers, not {ids!r}")
    found = list(ids)
    for token in found:
        if not isinstance(token, int) or isinstance(token, bool):
            raise InvalidRequestError(f"token ids must be whole numbers, not {token!r}")
    return found
