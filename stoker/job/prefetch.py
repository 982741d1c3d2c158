"""Rows on their way to the engine: read, made into prompts and tokenised in batches, ahead of it.

A thread keeps a few batches ready, so that the engine never waits for a tokenizer. Knows text and
tokens, no engine. Called by the job, and by each replica, which encodes what it is sent.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice

from stoker.engine.request.params import SamplingParams
from stoker.engine.text.tokenizer import TextCodec
from stoker.errors import InvalidRequestError, StokerError
from stoker.job.prompts import Ask, PromptBuilder
from stoker.job.rows import BadRow, Row
from stoker.job.settings import JobSettings
from stoker.llm.llm import LLM

BATCH = 128  # rows encoded at once
AHEAD = 8  # batches that are ready and wait


@dataclass(frozen=True)
class PreparedRow:
    """A row as the engine takes it; with an `error` it goes straight to the output as `status`.

    Its `params` are its own; None if it has got no further than its error.
    """

    row: Row | BadRow
    text: str | None = None
    ids: Seq[int] = ()
    params: SamplingParams | None = None
    error: str | None = None
    status: str = "bad_row"


# gives the next rows; [] if there are none now (it waits if told to), None at the end
ReadySource = Callable[[bool], list[PreparedRow] | None]


class Encoder:
    """Turns rows into text and token ids.

    Args:
        llm: the model.
        settings: say how a row becomes a prompt.

    Raises:
        InvalidRequestError: there is to be a chat, and the model has no template for one.
    """

    def __init__(self, llm: LLM, settings: JobSettings) -> None:
        self._llm = llm
        self._text: TextCodec = llm.text
        chat = not settings.raw and llm.text.has_chat_template
        self._prompts = PromptBuilder(settings.prompts, settings.params, chat)

    def encode(self, rows: Seq[Row | BadRow]) -> list[PreparedRow]:
        """Each row made ready; one that can't be is an error of its own."""
        found: dict[int, PreparedRow] = {}
        asks: dict[int, Ask] = {}
        for at, row in enumerate(rows):
            if isinstance(row, BadRow):
                found[at] = PreparedRow(row, error=row.error)
                continue
            try:
                asks[at] = self._prompts.ask(row)
            except Exception as problem:
                found[at] = _refused(row, problem)
        for special in (False, True):
            texts: dict[int, str] = {}
            for at, ask in asks.items():
                if _special(ask) == special:
                    try:
                        texts[at] = self._render(ask)
                    except Exception as problem:
                        found[at] = _refused(rows[at], problem)
            found.update(self._tokenised(rows, asks, texts, special))
        return [found.get(at) or self._tokens(row, asks[at]) for at, row in enumerate(rows)]

    def _render(self, ask: Ask) -> str:
        if ask.kind == "messages":
            return self._text.render_chat(ask.value)
        if not ask.value:
            raise InvalidRequestError("the prompt is empty; it needs some text")
        return str(ask.value)

    def _tokenised(
        self,
        rows: Seq[Row | BadRow],
        asks: dict[int, Ask],
        texts: dict[int, str],
        special: bool,
    ) -> dict[int, PreparedRow]:
        if not texts:
            return {}
        try:
            ids = self._text.encode_many(list(texts.values()), special=special)
        except Exception as problem:  # a text that no tokenizer takes, such as half a surrogate
            if len(texts) == 1:
                return {at: _refused(rows[at], problem) for at in texts}
            each = [self._tokenised(rows, asks, {at: text}, special) for at, text in texts.items()]
            return {at: ready for one in each for at, ready in one.items()}
        return {
            at: PreparedRow(rows[at], text, one, asks[at].params)
            for (at, text), one in zip(texts.items(), ids, strict=True)
        }

    def _tokens(self, row: Row | BadRow, ask: Ask) -> PreparedRow:
        """A row whose prompt is token ids."""
        try:
            text, ids = self._llm.encode_prompt({ask.kind: ask.value})
        except Exception as problem:
            return _refused(row, problem)
        return PreparedRow(row, text, ids, ask.params)


def _special(ask: Ask) -> bool | None:
    """Whether special tokens are added to the row's text; None if it is not text."""
    return None if ask.kind == "prompt_token_ids" else ask.kind == "prompt"


def _refused(row: Row | BadRow, problem: Exception) -> PreparedRow:
    """The row with what was wrong with it: its own fault, unless Stoker says otherwise."""
    failed = isinstance(problem, StokerError) and not isinstance(problem, InvalidRequestError)
    told = str(problem) if isinstance(problem, StokerError) else f"it can't be encoded: {problem}"
    return PreparedRow(row, error=told, status="failed" if failed else "bad_row")


class Feeder:
    """A thread that encodes rows ahead of who takes them. Leave its context to end it.

    Args:
        rows: what is read; an exception it raises is raised where the rows are taken.
        encoder: makes them ready.
    """

    def __init__(self, rows: Iterator[Row | BadRow], encoder: Encoder) -> None:
        self._rows, self._encoder = rows, encoder
        self._ready: queue.Queue[list[PreparedRow] | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()

    def take(self, wait: bool) -> list[PreparedRow] | None:
        """The next rows; [] if there are none now, None once there are no more."""
        try:
            found = self._ready.get(block=wait)
        except queue.Empty:
            return []
        if isinstance(found, BaseException):
            raise found
        return found

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            while batch := list(islice(self._rows, BATCH)):
                if not self._put(self._encoder.encode(batch)):
                    return
        except BaseException as problem:
            last = problem
        self._put(last)

    def _put(self, item: list[PreparedRow] | BaseException | None) -> bool:
        """Hand over, unless nobody takes any more."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
