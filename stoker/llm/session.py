"""Requests on one engine, from any number of threads: add them, step, hand out outputs, cancel.

Threads take turns (turns.py), a step at a time. A step advances the requests of all of them, and
its outputs wait in `arrived` for whoever asked:

    thread A  add a  step            take a
    thread B               add b  step  step   take b       its first step finished a as well

`LLM` and its calls are built on this.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from typing import TypeVar

from stoker.engine.engine import Engine
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import Request, RequestOutput, mix
from stoker.engine.setup.fork import SPAWN, Home
from stoker.engine.text.tokenizer import Encoded
from stoker.errors import InvalidRequestError, StokerError
from stoker.llm.at_exit import leave_at_exit
from stoker.llm.progress_bar import UseTqdm, Watcher, progress_bar
from stoker.llm.turns import Turns

T = TypeVar("T")
PATIENCE = 10.0  # seconds that the end of Python waits for a step
NAME = "prompt {}".format


class Session:
    """Runs requests of several callers on one engine.

    Args:
        engine: nothing else may step it.
        seed: where requests without a seed of their own derive theirs from.

    Attributes:
        arrived: outputs that nobody has taken yet, by request id.
    """

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine: Engine | None = engine
        self._seed = seed
        self._numbered = 0
        self._turns = Turns()
        self._home = Home()
        self._open: set[str] = set()  # added, and neither finished nor cancelled
        self._lost: dict[str, BaseException] = {}  # ended by a step that failed for another call
        self._cancelled: deque[str] = deque()  # to be cancelled when somebody has the turn
        self._watchers: dict[str, Watcher] = {}  # told when a request has finished, by its id
        self.arrived: dict[str, RequestOutput] = {}
        leave_at_exit(self)

    @property
    def engine(self) -> Engine:
        """The engine; raises StokerError if it has been closed."""
        if self._engine is None:
            raise StokerError("this LLM has been closed; make a new one")
        return self._engine

    @contextlib.contextmanager
    def turn(self) -> Iterator[Engine]:
        """Wait for this thread's turn, and hold it inside the context.

        Raises:
            StokerError: closed, in a forked process, or called from inside a step.
        """
        self._home.require("this LLM")
        try:
            with self._turns.take():
                self._cancel_waiting()
                yield self.engine
                self._cancel_waiting()
        finally:
            if self._cancelled:  # by someone who found the turn taken
                self._cancel_if_free()

    def request(
        self,
        prompt: Encoded,
        params: SamplingParams,
        *,
        pooling: PoolingParams | None = None,
        stream: bool = False,
    ) -> Request:
        """Make a request with the next number, which its seed follows from. Needs the turn."""
        number = self._numbered
        self._numbered += 1
        seed = params.seed if params.seed is not None else mix(self._seed, number)
        text, ids, vectors = prompt
        name = f"llm-{number}"
        return Request(name, tuple(ids), params, seed, text, stream, pooling, vectors=vectors)

    def add(self, request: Request) -> None:
        """Queue a request. Needs the turn.

        Raises:
            InvalidRequestError: it cannot be served.
        """
        self.engine.add(request)
        self._open.add(request.id)

    def add_all(self, requests: Seq[Request], name: Callable[[int], str] = NAME) -> None:
        """Queue all requests, or none. Needs the turn.

        Args:
            name: names the request of an index in messages.

        Raises:
            InvalidRequestError: names the first that cannot be served.
        """
        for index, request in enumerate(requests):
            try:
                self.add(request)
            except InvalidRequestError as problem:
                for added in requests[:index]:
                    self._end(added.id)
                raise InvalidRequestError(f"{name(index)}: {problem}") from None

    def run(
        self,
        make: Callable[[], Seq[Request]],
        *,
        name: Callable[[int], str] = NAME,
        use_tqdm: UseTqdm = False,
    ) -> list[RequestOutput]:
        """Run requests to their ends. Returns their outputs in order.

        Args:
            make: makes the requests, in this call's turn, so that their numbers follow each other.
            name: names the request of an index in messages.
            use_tqdm: show a bar of the requests done (progress_bar.py).

        Raises:
            InvalidRequestError: one cannot be served; nothing has been run.
        """
        requests: Seq[Request] = ()
        try:
            with contextlib.ExitStack() as bar:
                with self.turn():
                    requests = make()
                    self.add_all(requests, name)
                    if use_tqdm:
                        watcher = bar.enter_context(progress_bar(use_tqdm, len(requests)))
                        self._watchers.update((request.id, watcher) for request in requests)
                for request in requests:
                    while request.id not in self.arrived:
                        self.step(request)
            outputs = [self.arrived.pop(request.id) for request in requests]
        except BaseException:
            for request in requests:
                self.cancel(request)
            raise
        for index, output in enumerate(outputs):
            output.index = index
        return outputs

    def step(self, *waited: Request) -> None:
        """Take a step, unless an output of one of the requests `waited` for is there.

        Raises:
            StokerError: a request has been ended by a call that failed or was interrupted.
        """
        ids = [request.id for request in waited]
        with self.turn() as engine:
            if not self.arrived.keys().isdisjoint(ids):
                return
            lost = not self._lost.keys().isdisjoint(ids)
            if lost or (ids and not engine.has_work):
                raise StokerError(
                    "another call on this LLM failed or was interrupted, and ended this"
                ) from next((self._lost[name] for name in ids if name in self._lost), None)
            try:
                outputs = engine.step()
            except BaseException as problem:  # the engine has dropped all requests
                self._lost.update(dict.fromkeys(self._open, problem))
                self._open.clear()
                raise
            for output in outputs:
                self.arrived[output.request_id] = output
                if output.finished:
                    self._open.discard(output.request_id)
            for output in outputs if self._watchers else ():
                if output.finished and output.request_id in self._watchers:
                    self._watchers.pop(output.request_id)(output)

    def advance(self, request: Request, read: Callable[[RequestOutput], T]) -> T:
        """Step until `request` has an output, and return what `read` makes of it.

        `read` runs while no step changes the output, which a request that streams shares with
        the engine.
        """
        while True:
            if request.id not in self.arrived:
                self.step(request)
            with self.turn():
                output = self.arrived.pop(request.id, None)
                if output is not None:
                    return read(output)

    def cancel(self, request: Request) -> None:
        """End a request, whatever has become of it. Never waits and never fails.

        If another thread has the turn, the request ends after its step.
        """
        self._cancelled.append(request.id)
        self._cancel_if_free()

    def close(self) -> None:
        """Drop the engine. Calls that are under way in other threads end with a StokerError."""
        if not self._home.here:
            self._engine = None
        if self._engine is not None:
            with self._turns.take():
                self._engine = None
                self.arrived.clear()

    def leave(self) -> None:
        """Let the step of another thread finish, and no other begin: Python ends."""
        if self._home.here:
            self._turns.keep(PATIENCE)

    def _cancel_if_free(self) -> None:
        while self._cancelled and self._home.here:
            with self._turns.take_if_free() as taken:
                if not taken:
                    return  # who has the turn sees to it
                self._cancel_waiting()

    def _cancel_waiting(self) -> None:
        while self._cancelled:
            self._end(self._cancelled.popleft())

    def _end(self, request_id: str) -> None:
        self._open.discard(request_id)
        self._lost.pop(request_id, None)
        self._watchers.pop(request_id, None)
        self.arrived.pop(request_id, None)
        if self._engine is not None:
            self._engine.cancel(request_id)


def refuse_pickling(what: str) -> StokerError:
    """The error for an attempt to pickle or copy `what`, such as an argument of a process."""
    return StokerError(
        f"{what} cannot be pickled or copied. Pass the model's name and options to the other "
        f"process and make one there; {SPAWN}"
    )
