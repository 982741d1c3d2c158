"""`LLM.generate_iter`: prompts from any iterable, read as they are needed.

Knows the engine through the class that inherits, which adds, steps and drops requests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from stoker.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.request.checks import whole
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request, RequestOutput
from stoker.engine.text.tokenizer import Encoded, Prompt
from stoker.errors import InvalidRequestError


class LazyCalls(ABC):
    """What `LLM` inherits.

    Attributes:
        engine, config: as in `LLM`.
    """

    engine: Engine
    config: EngineConfig
    _arrived: dict[str, RequestOutput]

    @abstractmethod
    def encode_prompt(self, prompt: Prompt) -> Encoded:
        """Text and token ids of a prompt in any form."""

    @abstractmethod
    def _request(self, text: str | None, ids: list[int], params: SamplingParams) -> Request:
        """A request with the next number."""

    @abstractmethod
    def _step(self) -> None:
        """Take a step; outputs go to `_arrived`."""

    @abstractmethod
    def _drop(self, request: Request) -> None:
        """Cancel a request, whatever has become of it."""

    def generate_iter(
        self,
        prompts: Iterable[Prompt],
        sampling_params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        ordered: bool = False,
        in_flight: int | None = None,
    ) -> Iterator[RequestOutput]:
        """Complete prompts from an iterable, a generator among others, which is read as needed.

        The outputs are those of `generate`, with the prompt's place in `RequestOutput.index`.
        Closing the iterator, or leaving its loop, ends what is running.

        Args:
            prompts: each in a form that `generate` takes.
            sampling_params: one for all, or an iterable with one for each, read alongside.
            ordered: yield in the order of the prompts; by default as they finish.
            in_flight: most prompts that have been read and not yielded; memory depends on it.
                None is four times `max_running`.

        Raises:
            InvalidRequestError: at the call, an argument is wrong. Later, a prompt can't be
                served; what was read before it has been yielded by then. So it is with whatever
                the iterable itself raises.
        """
        if isinstance(prompts, str | dict) or not isinstance(prompts, Iterable):
            raise InvalidRequestError(
                f"prompts must be an iterable of prompts, not {prompts!r}; for one use generate"
            )
        if in_flight is not None:
            whole("in_flight", in_flight, 1)
        self.engine.require("generate")
        params: Iterable[Any]
        if sampling_params is None or isinstance(sampling_params, SamplingParams):
            params = repeat(sampling_params or SamplingParams())
            self.engine.check(sampling_params or SamplingParams())
        elif isinstance(sampling_params, Iterable):
            params = sampling_params
        else:
            raise InvalidRequestError(
                "sampling_params must be a SamplingParams or an iterable of them, "
                f"not {sampling_params!r}"
            )
        reader = self._read(iter(prompts), iter(params))
        return self._flow(reader, ordered, in_flight or 4 * self.config.max_running)

    def _read(self, prompts: Iterator[Prompt], params: Iterator[Any]) -> Iterator[Request]:
        """Requests, queued as they are read."""
        for index, prompt in enumerate(prompts):
            try:
                own = next(params, None)
                if not isinstance(own, SamplingParams):
                    raise InvalidRequestError(f"it has no SamplingParams but {own!r}")
                text, ids = self.encode_prompt(prompt)
                request = self._request(text, ids, own)
                self.engine.add(request)
            except InvalidRequestError as problem:
                raise InvalidRequestError(f"prompt {index}: {problem}") from None
            yield request

    def _flow(self, reader: Iterator[Request], ordered: bool, most: int) -> Iterator[RequestOutput]:
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
                    except Exception as found:  # the reader is at its end by this
                        problem = found
                        break
                    pending.append((read, request))
                    read += 1
                if not pending:
                    break
                yield from self._finished(pending, ordered)
        finally:
            for _, request in pending:
                self._drop(request)
        if problem is not None:
            raise problem

    def _finished(
        self, pending: deque[tuple[int, Request]], ordered: bool
    ) -> Iterator[RequestOutput]:
        """Step until something can be yielded; takes it out of `pending`."""
        while True:
            if ordered:
                done = [pending[0]] if pending[0][1].id in self._arrived else []
            else:
                done = [one for one in pending if one[1].id in self._arrived]
            for index, request in done:
                pending.remove((index, request))
                output = self._arrived.pop(request.id)
                output.index = index
                yield output
            if done:
                return
            self._step()
