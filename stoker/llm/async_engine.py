"""The asynchronous face: requests come and go while the engine runs in a thread of its own.

    caller's event loop   --commands-->   engine thread (the only one that touches the engine)
                          <--outputs---

Used by servers and by anything that has its own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import queue
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from stoker.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import Request, RequestOutput, mix
from stoker.engine.setup.build import build_engine
from stoker.errors import StokerError

Inbox = Callable[[RequestOutput | BaseException], None]


class AsyncEngine:
    """Runs an `Engine` in a background thread.

    Args:
        engine: the engine; nothing else may use it from now on.
        seed: where requests without a seed derive theirs from.
    """

    def __init__(self, engine: Engine, seed: int = 0) -> None:
        self._engine = engine
        self._seed = seed
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._inboxes: dict[str, Inbox] = {}
        self._numbers = itertools.count()
        self._closed = False
        self._closing = threading.Lock()  # nothing is asked for after close() has asked to stop
        self._thread = threading.Thread(target=self._loop, name="stoker-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_model(cls, model: str, **options: Any) -> AsyncEngine:
        """Load `model` and start; options are those of `EngineConfig`."""
        built = build_engine(model, EngineConfig.from_options(**options))
        return cls(built.engine, built.config.seed)

    async def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        prompt: str | None = None,
        stream: bool = True,
        pooling: PoolingParams | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Outputs of one request, after every token (or just the last with stream=False).

        With `pooling` there is a single output, with a `vector` and no completions.
        Leaving the loop early, or cancelling the task, cancels the request.

        Raises:
            InvalidRequestError: the request can't be served.
            StokerError: the engine has been closed.
        """
        number = next(self._numbers)
        seed = params.seed if params.seed is not None else mix(self._seed, number)
        ids = tuple(prompt_token_ids)
        request = Request(f"async-{number}", ids, params, seed, prompt, stream, pooling)
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[RequestOutput | BaseException]()

        def deliver(item: RequestOutput | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is gone: nobody waits
                loop.call_soon_threadsafe(inbox.put_nowait, item)

        with self._closing:
            if self._closed:
                raise StokerError("the engine has been closed; make a new one")
            self._commands.put(lambda: self._add(request, deliver))
        try:
            while True:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finished:
                    return
        finally:
            self._commands.put(lambda: self._cancel(request.id))

    def close(self) -> None:
        """Stop after the step under way. Requests still open end with a StokerError."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._commands.put(None)
        self._thread.join()

    # -- in the engine's thread ------------------------------------------------------------

    def _loop(self) -> None:
        while self._obey():
            try:
                outputs = self._engine.step()
            except Exception as problem:  # passed on to every caller
                self._fail_all(problem)
                continue
            for output in outputs:
                inbox = self._inboxes.get(output.request_id)
                if inbox is not None:
                    inbox(_snapshot(output))
                if output.finished:
                    self._inboxes.pop(output.request_id, None)
        self._engine.abort_all()
        self._fail_all(StokerError("the engine was closed before the request was done"))
        del self._engine

    def _obey(self) -> bool:
        """Carry out the commands that wait; block while there is no work. False: stop."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _add(self, request: Request, deliver: Inbox) -> None:
        try:
            self._engine.add(request)
        except Exception as problem:  # the caller's; this thread must go on
            deliver(problem)
        else:
            self._inboxes[request.id] = deliver

    def _cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        self._inboxes.pop(request_id, None)

    def _fail_all(self, problem: BaseException) -> None:
        for inbox in self._inboxes.values():
            inbox(problem)
        self._inboxes.clear()


def _snapshot(output: RequestOutput) -> RequestOutput:
    """A copy that later steps do not change."""
    outputs = [
        dataclasses.replace(
            one,
            token_ids=list(one.token_ids),
            logprobs=None if one.logprobs is None else list(one.logprobs),
        )
        for one in output.outputs
    ]
    return dataclasses.replace(output, outputs=outputs)
