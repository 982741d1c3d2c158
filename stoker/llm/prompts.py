"""Prompts and parameters as callers write them, made uniform: text and token ids, one by one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Set
from collections.abc import Sequence as Seq
from typing import Any, TypeVar

import numpy as np

from stoker.engine.request.params import SamplingParams
from stoker.engine.request.vectors import PromptVectors
from stoker.engine.text.tokenizer import Encoded, Prompt, TextCodec
from stoker.errors import InvalidRequestError, short
from stoker.llm.prompt_vectors import as_vectors, is_array, is_vectors, join_parts

T = TypeVar("T")
U = TypeVar("U")

Prompts = Prompt | Seq[Prompt]
FORMS = "prompt_token_ids", "prompt_embeds", "prompt_parts"
BYTES = bytes | bytearray | memoryview
# keys of prompts for vLLM that say more than a text or token ids
UNSERVED = (
    "multi_modal_data",
    "multi_modal_uuids",
    "mm_processor_kwargs",
    "encoder_prompt",
    "token_type_ids",
    "cache_salt",
)
Params = SamplingParams | Seq[SamplingParams] | None


def as_list(prompts: Prompts) -> list[Prompt]:
    """Return one prompt or several as a list.

    Whole numbers are the token ids of one prompt, as a list, an array or a tensor; an array of
    two dimensions has a prompt in each row.

    Raises:
        InvalidRequestError: `prompts` is of another type.
    """
    if isinstance(prompts, str | BYTES | Mapping):
        return [prompts]  # bytes are refused by encode_prompt
    found: Any = prompts.tolist() if is_array(prompts) else prompts
    if isinstance(found, Set) or not isinstance(found, Iterable):
        raise InvalidRequestError(
            f"prompts must be text, token ids or a list, not {short(prompts)}"
        )
    items: list[Any] = list(found)
    return [items] if items and all(map(_is_number, items)) else items


def each_named(make: Callable[[T], U], items: Iterable[T], name: str = "prompt {}") -> list[U]:
    """Return `make` of each item.

    Raises:
        InvalidRequestError: as `make` does, with the item's index put into `name` before it.
    """
    found = []
    for index, item in enumerate(items):
        try:
            found.append(make(item))
        except InvalidRequestError as problem:
            raise type(problem)(f"{name.format(index)}: {problem}") from None
    return found


def as_chats(messages: Seq[Any]) -> list[tuple[str, Any]]:
    """Return one chat (a list of messages) or several, each with its name for errors.

    Raises:
        InvalidRequestError: `messages` is no list.
    """
    if isinstance(messages, str | BYTES | Mapping) or not isinstance(messages, Iterable):
        raise InvalidRequestError(
            "messages must be a list of messages such as {'role': 'user', 'content': 'Hi'}, or a "
            f"list of such lists, not {short(messages)}"
        )
    chats = list(messages)
    if chats and not isinstance(chats[0], list | tuple):
        return [("messages", chats)]
    return [(f"messages[{at}]", chat) for at, chat in enumerate(chats)]


def encode_prompt(text: TextCodec | None, prompt: Prompt) -> Encoded:
    """Return the text (where there is one), token ids and vectors of a prompt in any form.

    Args:
        text: encodes texts; None takes token ids alone.

    Raises:
        InvalidRequestError: the prompt is empty or of another form.
    """
    if isinstance(prompt, Mapping):
        form, value = _form(prompt)
        if form != "prompt":
            return Encoded(prompt.get("prompt"), *_parts(form, value))
        prompt = value
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequestError("the prompt is empty; it needs some text")
        if text is None:
            raise InvalidRequestError("this engine has no tokenizer; pass token ids")
        return Encoded(prompt, text.encode(prompt))
    if not isinstance(prompt, BYTES | Iterable):
        raise InvalidRequestError(
            f"a prompt must be text, a list of token ids or a dict, not {short(prompt)}"
        )
    return Encoded(None, _token_ids(prompt, "the prompt"))


def _form(prompt: Mapping[str, Any]) -> tuple[str, Any]:
    """Which form a prompt dict has, and its value."""
    forms = [name for name in FORMS if prompt.get(name) is not None]
    if len(forms) > 1 or not (forms or "prompt" in prompt):
        raise InvalidRequestError(
            f"a prompt dict needs one of 'prompt', {', '.join(map(repr, FORMS))}, "
            f"not {sorted(map(str, prompt))}"
            + ("; pass each row of input_ids alone" if "input_ids" in prompt else "")
        )
    for name in UNSERVED:
        if prompt.get(name) is not None:
            raise InvalidRequestError(f"{name} of a prompt dict can't be served; leave it out")
    form = forms[0] if forms else "prompt"
    return form, prompt[form]


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
    for index, item in enumerate(found):
        if not isinstance(item, SamplingParams):
            raise InvalidRequestError(
                f"sampling_params must hold SamplingParams, not {item!r} (sampling_params[{index}])"
            )
    return found


def _parts(form: str, value: Any) -> tuple[list[int], PromptVectors | None]:
    if form == "prompt_token_ids":
        return _token_ids(value, form), None
    if form == "prompt_embeds":
        return join_parts([as_vectors(value, form)])
    if not isinstance(value, list | tuple):
        raise InvalidRequestError(
            f"prompt_parts must be a list of token ids and tensors, not {type(value).__name__}"
        )
    names = [f"prompt_parts[{at}]" for at in range(len(value))]
    return join_parts(
        [
            as_vectors(part, name) if is_vectors(part) else _token_ids(part, name)
            for name, part in zip(names, value, strict=True)
        ]
    )


def _is_number(item: object) -> bool:
    """Whether `item` of a list is a token id, as it may be wrong, rather than a prompt."""
    plain = isinstance(item, int | float | np.number | np.bool_)
    return plain or (is_array(item) and not item.ndim)


def _token_ids(ids: Any, name: str) -> list[int]:
    """The token ids of a list, an array (n,) or a tensor (n,), as integers of Python."""
    if isinstance(ids, BYTES):
        raise InvalidRequestError(f"{name} is bytes; decode them to text, or pass token ids")
    listed = ids.tolist() if is_array(ids) else ids
    if isinstance(listed, str | Mapping | Set) or not isinstance(listed, Iterable):
        raise InvalidRequestError(f"{name} must be a list of token ids, not {short(ids)}")
    found = list(listed)
    if set(map(type, found)) <= {int}:  # at C speed, over what may be a million of them
        return found
    return [_token_id(token, at, name) for at, token in enumerate(found)]


def _token_id(token: Any, at: int, name: str) -> int:
    yes_or_no = isinstance(token, bool) or "bool" in str(getattr(token, "dtype", ""))
    scalar = not (is_array(token) and token.ndim)
    try:
        if not yes_or_no and scalar:
            return operator.index(token)
    except TypeError:
        pass
    hint = "; vectors go into a dict, as 'prompt_embeds'" if isinstance(token, float) else ""
    raise InvalidRequestError(
        f"token ids must be whole numbers, not {short(token)} (at {at} of {name}){hint}"
    )
