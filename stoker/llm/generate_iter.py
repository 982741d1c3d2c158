"""Completions of prompts from any iterable, which is read as its prompts are needed.

read   p0 p1 p2 p3        p4           p5 ...     at most `in_flight` read and not yielded
yield            p1          p0 p2
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

from stoker.engine.request.checks import whole
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request, RequestOutput
from stoker.engine.text.tokenizer import Encoded, Prompt
from stoker.errors import InvalidRequestError
from stoker.llm.session import Session


def generate_iter(
    session: Session,
    encode: Callable[[Prompt], Encoded],
    prompts: Iterable[Prompt],
    sampling_params: SamplingParams | Iterable[SamplingParams] | None,
    *,
    ordered: bool,
    in_flight: int,
) -> Iterator[RequestOutput]:
    """Check the arguments and return the iterator of `LLM.generate_iter`.

    Raises:
        InvalidRequestError: an argument is wrong.
    """
    if isinstance(prompts, str | dict) or not isinstance(prompts, Iterable):
        raise InvalidRequestError(
            f"prompts must be an iterable of prompts, not {prompts!r}; for one use generate"
        )
    whole("in_flight", in_flight, 1)
    with session.turn() as engine:
        engine.require("generate")
        params: Iterable[Any]
        if sampling_params is None or isinstance(sampling_params, SamplingParams):
            params = repeat(sampling_params or SamplingParams())
            engine.check(sampling_params or SamplingParams())
        elif isinstance(sampling_params, Iterable):
            params = sampling_params
        else:
            raise InvalidRequestError(
                "sampling_params must be a SamplingParams or an iterable of them, "
                f"not {sampling_params!r}"
            )
    reader = _read(session, encode, iter(prompts), iter(params))
    return _flow(session, reader, ordered, in_flight)


def _read(
    session: Session,
    encode: Callable[[Prompt], Encoded],
    prompts: Iterator[Prompt],
    params: Iterator[Any],
) -> Iterator[Request]:
    """Yield requests, queued as they are read. The iterables run outside any turn."""
    for index, prompt in enumerate(prompts):
        try:
            own = next(params, None)
            if not isinstance(own, SamplingParams):
                raise InvalidRequestError(f"it has no SamplingParams but {own!r}")
            encoded = encode(prompt)
            with session.turn():
                request = session.request(encoded, own)
                session.add(request)
        except InvalidRequestError as problem:
            raise InvalidRequestError(f"prompt {index}: {problem}") from None
        yield request


def _flow(
    session: Session, reader: Iterator[Request], ordered: bool, most: int
) -> Iterator[RequestOutput]:
    pending: deque[tuple[int, Request]] = deque()  # in the order they were read
    read = 0
    problem: Exception | None = None
    try:
        while True:
            while len(pending) < most:
                try:
                    request = next(reader)
                except StopIteration:
                    break
                except Exception as raised:  # the reader ends here
                    problem = raised
                    break
                pending.append((read, request))
                read += 1
            if not pending:
                break
            yield from _finished(session, pending, ordered)
    finally:
        for _, request in pending:
            session.cancel(request)
    if problem is not None:
        raise problem


def _finished(
    session: Session, pending: deque[tuple[int, Request]], ordered: bool
) -> Iterator[RequestOutput]:
    """Step until something can be yielded, and take it out of `pending`."""
    while True:
        candidates = [pending[0]] if ordered else list(pending)
        done = [item for item in candidates if item[1].id in session.arrived]
        for index, request in done:
            pending.remove((index, request))
            output = session.arrived.pop(request.id)
            output.index = index
            yield output
        if done:
            return
        session.step(*(request for _, request in candidates))
