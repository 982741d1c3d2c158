"""The Python face: `LLM`, with the calls and results known from vLLM.

Turns prompts into requests, drives the engine in the caller's thread, returns outputs in order.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from typing import Any

from stoker.config import EngineConfig
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import Request, RequestOutput, mix
from stoker.engine.setup.build import build_engine
from stoker.engine.text.tokenizer import Encoded, Prompt
from stoker.errors import InvalidRequestError, StokerError
from stoker.llm.beam import BeamSearchOutput, BeamSearchParams, beam_search
from stoker.llm.lazy_calls import LazyCalls
from stoker.llm.pooled_calls import PooledCalls

Params = SamplingParams | Seq[SamplingParams] | None

DEFAULT_MODEL = "stoker-tiny"


class LLM(PooledCalls, LazyCalls):
    """A model ready to answer prompts.

    Args:
        model: a local folder, a shipped model's name, or a Hugging Face id.
        revision, token: for the hub.
        options: fields of `EngineConfig` (device, dtype, max_batch_tokens, seed, ...).

    `budget` says where a GPU's memory goes, line by line (`print(llm.budget)`); it is None on a
    CPU, and where the size of the cache was given.

    Raises:
        ModelError: the model can't be had, is incomplete or damaged.
        ConfigError: an option is unknown or out of range.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> None:
        config = EngineConfig.from_options(**options)
        built = build_engine(str(model), config, revision=revision, token=token)
        self.config = built.config
        self.spec = built.spec
        self.engine = built.engine
        self.text = built.text
        self.head = built.head
        self.embedding = built.embedding
        self.budget = built.budget
        self._asked = 0
        self._arrived: dict[str, RequestOutput] = {}

    def generate(
        self, prompts: Prompt | Seq[Prompt], sampling_params: Params = None
    ) -> list[RequestOutput]:
        """Complete each prompt; results come in the order of the prompts.

        Args:
            prompts: a text, a list of token ids, a dict with "prompt" or "prompt_token_ids",
                or a list of these.
            sampling_params: one for all, or a list with one for each.

        Raises:
            InvalidRequestError: a prompt or parameter can't be served; nothing has been run.

        A request that fails on the way (in a logits processor, say) has the finish reason
        "error" and a message in its output's `error`; the others go on.
        """
        return self._run(self._encode(prompts), sampling_params)

    def chat(
        self,
        messages: Seq[Mapping[str, Any]] | Seq[Seq[Mapping[str, Any]]],
        sampling_params: Params = None,
    ) -> list[RequestOutput]:
        """Answer one chat (a list of messages) or several, through the model's chat template."""
        if not messages:
            raise InvalidRequestError("there are no messages; pass a list of them, or of chats")
        chats: Any = [messages] if isinstance(messages[0], Mapping) else messages
        return self._run([self.text.encode_chat(chat) for chat in chats], sampling_params)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Iterator[str]:
        """The completion of one prompt, piece by piece as it is generated.

        Raises:
            InvalidRequestError: the prompt or a parameter can't be served. What a stream of text
                can't show (more than one completion, log-probabilities) is refused.
            StokerError: the completion failed on the way.
        """
        text, ids = self.encode_prompt(prompt)
        params = sampling_params or SamplingParams()
        if (
            params.num_drawn > 1
            or params.logprobs is not None
            or params.prompt_logprobs is not None
        ):
            raise InvalidRequestError(
                "a stream gives the text of one completion; leave n, best_of, logprobs and "
                "prompt_logprobs out, or use generate"
            )
        return self._stream(self._request(text, ids, params))

    def beam_search(
        self, prompts: Prompt | Seq[Prompt], params: BeamSearchParams
    ) -> list[BeamSearchOutput]:
        """The likeliest continuations of each prompt, by beam search; see `BeamSearchParams`.

        Prompts are searched a few at a time, so that the blocks of their beams stay cached.

        Raises:
            InvalidRequestError: a prompt can't be served; nothing has been run.
        """
        if not isinstance(params, BeamSearchParams):
            raise InvalidRequestError(f"params must be a BeamSearchParams, not {params!r}")
        made = self._encode(prompts)
        trial = self._requests(made, SamplingParams(max_tokens=1))
        self._add_all(trial)  # refuses bad prompts
        for request in trial:
            self._drop(request)
        scheduler = self.engine.scheduler
        at_once = max(1, scheduler.max_running // params.beam_width)
        found: list[BeamSearchOutput] = []
        for start in range(0, len(made), at_once):
            found += beam_search(
                [ids for _, ids in made[start : start + at_once]],
                params,
                lambda beams, step: self._run([(None, ids) for ids in beams], step),
                eos_ids=scheduler.eos_ids,
                vocab=self.engine.vocab,
                max_length=scheduler.max_length,
            )
        if self.text.available:
            for sequence in (one for output in found for one in output.sequences):
                sequence.text = self.text.decode(sequence.tokens)
        return found

    def close(self) -> None:
        """Give the memory back. The object can't be used afterwards; twice is fine."""
        self.__dict__.pop("engine", None)
        gc.collect()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name == "engine":
            raise StokerError("this LLM has been closed; make a new one")
        raise AttributeError(name)

    def encode_prompt(self, prompt: Prompt) -> Encoded:
        """Text (where there is one) and token ids of a prompt in any form."""
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt:
                text = prompt.get("prompt")
                return text, _token_ids(prompt["prompt_token_ids"])
            if "prompt" not in prompt:
                raise InvalidRequestError(
                    f"a prompt dict needs 'prompt' or 'prompt_token_ids', not {sorted(prompt)}"
                )
            prompt = prompt["prompt"]
        if isinstance(prompt, str):
            if not prompt:
                raise InvalidRequestError("the prompt is empty; it needs some text")
            return prompt, self.text.encode(prompt)
        return None, _token_ids(prompt)

    def _run(self, prompts: Seq[Encoded], params: Params) -> list[RequestOutput]:
        return self._finish_all(self._requests(prompts, params))

    def _requests(self, prompts: Seq[Encoded], params: Params) -> list[Request]:
        self.engine.require("generate")
        return [
            self._request(text, ids, one)
            for (text, ids), one in zip(prompts, _spread(params, len(prompts)), strict=True)
        ]

    def _pool(self, prompts: Seq[Encoded], params: PoolingParams) -> list[RequestOutput]:
        plain = SamplingParams()
        made = [self._request(text, ids, plain) for text, ids in prompts]
        return self._finish_all([dataclasses.replace(one, pooling=params) for one in made])

    def _listed(self, prompts: Prompt | Seq[Prompt]) -> list[Prompt]:
        return _as_list(prompts)

    def _add_all(self, requests: Seq[Request]) -> None:
        """Queue all requests, or none and raise an InvalidRequestError that names the first bad."""
        try:
            for request in requests:
                self.engine.add(request)
        except InvalidRequestError as problem:
            for request in requests:
                self.engine.cancel(request.id)
            at = next(n for n, one in enumerate(requests) if one.id == request.id)
            raise InvalidRequestError(f"prompt {at}: {problem}") from None

    def _finish_all(self, requests: Seq[Request]) -> list[RequestOutput]:
        """Run the requests to their ends; outputs in their order."""
        self._add_all(requests)
        try:
            for request in requests:
                while request.id not in self._arrived:
                    self._step()
            outputs = [self._arrived.pop(request.id) for request in requests]
            for index, output in enumerate(outputs):
                output.index = index
            return outputs
        except BaseException:
            for request in requests:
                self._drop(request)
            raise

    def _step(self) -> None:
        """Take a step; what it yields waits for whoever asked, other streams among them."""
        if not self.engine.has_work:
            raise StokerError("another call on this LLM failed or was interrupted, and ended this")
        self._arrived.update((output.request_id, output) for output in self.engine.step())

    def _drop(self, request: Request) -> None:
        self._arrived.pop(request.id, None)
        if "engine" in self.__dict__:
            self.engine.cancel(request.id)

    def _stream(self, request: Request) -> Iterator[str]:
        self.engine.add(dataclasses.replace(request, stream=True))
        shown = 0
        try:
            finished = False
            while not finished:
                if request.id not in self._arrived:
                    self._step()
                    continue
                output = self._arrived.pop(request.id)
                text, finished = output.outputs[0].text, output.finished
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
                if output.error is not None:
                    raise StokerError(f"the completion failed: {output.error}")
        finally:
            self._drop(request)

    def _request(self, text: str | None, ids: list[int], params: SamplingParams) -> Request:
        number = self._asked
        self._asked += 1
        seed = params.seed if params.seed is not None else mix(self.config.seed, number)
        return Request(f"llm-{number}", tuple(ids), params, seed, text)


def _as_list(prompts: Prompt | Seq[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if isinstance(prompts, Iterable):
        items: list[Any] = list(prompts)
        if not items:
            raise InvalidRequestError("the list of prompts is empty; pass at least one prompt")
        return [items] if all(isinstance(item, int) for item in items) else items
    raise InvalidRequestError(f"prompts must be text, token ids or a list, not {prompts!r}")


def _token_ids(ids: Any) -> list[int]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidRequestError(f"prompt_token_ids must be a list of whole numbers, not {ids!r}")
    found = list(ids)
    for token in found:
        if not isinstance(token, int) or isinstance(token, bool):
            raise InvalidRequestError(f"token ids must be whole numbers, not {token!r}")
    return found


def _spread(params: Params, count: int) -> list[SamplingParams]:
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
    for one in found:
        if not isinstance(one, SamplingParams):
            raise InvalidRequestError(f"sampling_params must hold SamplingParams, not {one!r}")
    return found
