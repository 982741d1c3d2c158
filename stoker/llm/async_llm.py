"""`AsyncLLM`: requests come and go while the engine runs in a thread of its own.

    caller's event loop   --Add, Cancel-->   engine thread (the only one that touches the engine)
                          <--outputs------

An output holds what is new since the one before:

    step       1        2          3              4
    text       "Once"   " upon"    ""             " a time"      joined: the completion
    token ids  [12]     [77]       [201]          [9, 31]

Used by servers and by anything that has its own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, NoReturn

from stoker.engine.engine import Engine
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import CompletionOutput, Request, RequestOutput, mix
from stoker.engine.setup.build import build_engine
from stoker.engine.setup.fork import Home
from stoker.engine.text.chat_options import ChatOptions
from stoker.engine.text.tokenizer import Encoded, Prompt, TextCodec
from stoker.errors import InvalidRequestError, StokerError
from stoker.llm.at_exit import leave_at_exit
from stoker.llm.prompts import encode_prompt
from stoker.llm.session import refuse_pickling
from stoker.llm.vllm_options import engine_options

Deliver = Callable[[RequestOutput | BaseException], None]


@dataclass
class Delivery:
    """Where a request's outputs go, and how much of them has gone there.

    Attributes:
        deliver: hands an output, or the error that ends the request, to the caller.
        sent: by completion, its tokens that were delivered.
        prompt_sent: the scores of the prompt were delivered.
    """

    deliver: Deliver
    sent: dict[int, int] = field(default_factory=dict)
    prompt_sent: bool = False

    def send(self, output: RequestOutput) -> None:
        """Deliver what is new in `output`, which the engine goes on to change."""
        scores = None if self.prompt_sent else output.prompt_logprobs
        self.prompt_sent = self.prompt_sent or scores is not None
        news = [part for one in output.outputs if (part := self._news(one)) is not None]
        self.deliver(dataclasses.replace(output, outputs=news, prompt_logprobs=scores))

    def _news(self, out: CompletionOutput) -> CompletionOutput | None:
        """What is new in a completion; None if nothing is."""
        tokens, text = self.sent.get(out.index, 0), out.take_text()
        if not text and len(out.token_ids) == tokens and out.finish_reason is None:
            return None
        self.sent[out.index] = len(out.token_ids)
        return dataclasses.replace(
            out,
            text=text,
            token_ids=out.token_ids[tokens:],
            logprobs=None if out.logprobs is None else out.logprobs[tokens:],
        )


@dataclass(frozen=True)
class Add:
    request: Request
    delivery: Delivery


@dataclass(frozen=True)
class Cancel:
    request_id: str


@dataclass(frozen=True)
class Stop:
    pass


class AsyncLLM:
    """A model that answers prompts as they come, for programs with an event loop.

    Args:
        model: as for `LLM`.
        revision, token: for the hub.
        options: as for `LLM`.

    Raises:
        ModelError: there is no such model, or it is incomplete or damaged.
        ConfigError: an option is unknown or out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> None:
        asked = engine_options(str(model), options)
        built = build_engine(str(model), asked, revision=revision, token=token)
        self._start(built.engine, built.text, built.plan.seed)

    @classmethod
    def from_engine(cls, engine: Engine, text: TextCodec | None = None, seed: int = 0) -> AsyncLLM:
        """Take over an engine; nothing else may use it from now on.

        Args:
            text: encodes prompts and chats; None takes token ids alone.
            seed: where requests without a seed derive theirs from.
        """
        face = cls.__new__(cls)
        face._start(engine, text, seed)
        return face

    def _start(self, engine: Engine, text: TextCodec | None, seed: int) -> None:
        self._engine = engine
        self._text = text
        self._seed = seed
        self._home = Home()
        self._commands: queue.SimpleQueue[Add | Cancel | Stop] = queue.SimpleQueue()
        self._deliveries: dict[str, Delivery] = {}
        self._numbers = itertools.count()
        self._stopped = ""  # why nothing more can be asked for
        self._closing = threading.Lock()  # nothing is added after the last look for commands
        self._thread = threading.Thread(target=self._run, name="stoker-engine", daemon=True)
        self._thread.start()
        leave_at_exit(self)

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        stream: bool = True,
        pooling: PoolingParams | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Complete one prompt and yield what is new after each step.

        Each output holds the text, token ids and log-probabilities that came since the one
        before. Completions without news are left out; the others are told apart by `index`.
        `cumulative_logprob` is the sum so far, and `finished` is True in the last output. With
        stream=False, or where it is known at the end only which completions are the best
        (`best_of`), there is a single output with all of it.

        With `pooling` there is a single output, with a `vector` and no completions.
        Leaving the loop early, or cancelling the task, cancels the request.

        Args:
            prompt: one prompt, in a form that `LLM.generate` takes.

        Raises:
            InvalidRequestError: the request cannot be served.
            StokerError: the engine has been closed or has stopped, or this is a forked process.
        """
        made = self._request(encode_prompt(self._text, prompt), sampling_params, stream, pooling)
        async with contextlib.aclosing(self._outputs(made)) as outputs:
            async for output in outputs:
                yield output

    async def chat(
        self,
        messages: Seq[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        *,
        stream: bool = True,
        tools: Seq[Any] | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answer one chat through the model's chat template; yields and raises as `generate`.

        The options of the template are those of `LLM.chat`.
        """
        if self._text is None:
            raise InvalidRequestError("this engine has no tokenizer; pass token ids to generate")
        options = ChatOptions(
            tools,
            chat_template_kwargs or {},
            add_generation_prompt,
            continue_final_message,
            chat_template,
        )
        prompt = self._text.encode_chat(messages, options)
        made = self._request(prompt, sampling_params, stream, None)
        async with contextlib.aclosing(self._outputs(made)) as outputs:
            async for output in outputs:
                yield output

    async def get_tokenizer(self) -> Any:
        """Return the tokenizer of transformers that texts are encoded with.

        Raises:
            InvalidRequestError: the engine has none.
            ModelError: the model's folder has none, or it cannot be read.
        """
        if self._text is None:
            raise InvalidRequestError("this engine has no tokenizer; it takes token ids")
        return self._text.tokenizer

    def close(self) -> None:
        """Stop after the step under way. Requests still open end with a StokerError."""
        if not self._home.here:
            return
        with self._closing:
            if not self._stopped:
                self._stopped = "the engine has been closed; make a new one"
                self._commands.put(Stop())
        self._thread.join()

    leave = close  # when Python ends

    def __reduce__(self) -> NoReturn:
        raise refuse_pickling("an AsyncLLM")

    def _request(
        self,
        prompt: Encoded,
        params: SamplingParams | None,
        stream: bool,
        pooling: PoolingParams | None,
    ) -> Request:
        params = params or SamplingParams()
        (text, ids, vectors), number = prompt, next(self._numbers)
        seed = params.seed if params.seed is not None else mix(self._seed, number)
        name = f"async-{number}"
        return Request(name, tuple(ids), params, seed, text, stream, pooling, vectors=vectors)

    async def _outputs(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        self._home.require("this AsyncLLM")
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[RequestOutput | BaseException]()

        def deliver(item: RequestOutput | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is gone: nobody waits
                loop.call_soon_threadsafe(inbox.put_nowait, item)

        with self._closing:
            if self._stopped:
                raise StokerError(self._stopped)
            self._commands.put(Add(request, Delivery(deliver)))
        try:
            while True:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finished:
                    return
        finally:
            self._commands.put(Cancel(request.id))

    # -- in the engine's thread ------------------------------------------------------------

    def _run(self) -> None:
        """Serve until told to stop. However it ends, every caller that waits is told."""
        reason = StokerError("the engine was closed before the request was done")
        try:
            self._serve()
            self._engine.abort_all()
        except BaseException as problem:
            reason = StokerError(f"the engine has stopped: {type(problem).__name__}: {problem}")
            reason.__cause__ = problem
        finally:
            with self._closing:  # from here on callers are refused before they wait
                self._stopped = self._stopped or f"{reason}; make a new one"
            self._fail_all(reason)
            with contextlib.suppress(queue.Empty):
                while True:
                    command = self._commands.get(block=False)
                    if isinstance(command, Add):
                        command.delivery.deliver(reason)
            del self._engine

    def _serve(self) -> None:
        while self._obey():
            try:
                outputs = self._engine.step()
            except Exception as problem:  # of this step; the engine goes on with new requests
                self._fail_all(problem)
                continue
            for output in outputs:
                delivery = self._deliveries.get(output.request_id)
                if delivery is not None:
                    delivery.send(output)
                if output.finished:
                    self._deliveries.pop(output.request_id, None)

    def _obey(self) -> bool:
        """Carry out the commands that wait; block while there is no work. False: stop."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            if isinstance(command, Stop):
                return False
            if isinstance(command, Add):
                self._add(command)
            else:
                self._engine.cancel(command.request_id)
                self._deliveries.pop(command.request_id, None)

    def _add(self, command: Add) -> None:
        try:
            self._engine.add(command.request)
        except Exception as problem:  # the caller's; this thread must go on
            command.delivery.deliver(problem)
        else:
            self._deliveries[command.request.id] = command.delivery

    def _fail_all(self, problem: BaseException) -> None:
        for delivery in self._deliveries.values():
            delivery.deliver(problem)
        self._deliveries.clear()
