"""Rows on their way to the engine: read, templated and tokenised in batches, ahead of it.

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

from stoker.engine.text import TextCodec
from stoker.errors import InvalidRequestError, StokerError
from stoker.job.rows import BadRow, Row
from stoker.llm import LLM

BATCH = 128  # rows encoded at once
AHEAD = 8  # batches that are ready and wait


@dataclass(frozen=True)
class Ready:
    """A row as the engine takes it; with an `error` it goes straight to the output as `status`."""

    row: Row | BadRow
    text: str | None = None
    ids: Seq[int] = ()
    error: str | None = None
    status: str = "bad_row"


# gives the next rows; [] if there are none now (it waits if told to), None at the end
ReadySource = Callable[[bool], list[Ready] | None]


class Encoder:
    """Turns rows into text and token ids.

    Args:
        llm: the model.
        raw: prompts are completed as they are, without the chat template.
    """

    def __init__(self, llm: LLM, raw: bool) -> None:
        self._llm = llm
        self._text: TextCodec = llm.text
        self._chat = not raw and llm.text.has_chat_template

    def encode(self, rows: Seq[Row | BadRow]) -> list[Ready]:
        """Each row made ready; one that can't be is an error of its own."""
        found: dict[int, Ready] = {}
        for special in (False, True):
            texts: dict[int, str] = {}
            for at, row in enumerate(rows):
                if isinstance(row, Row) and at not in found and self._special(row) == special:
                    try:
                        texts[at] = self._render(row)
                    except Exception as problem:
                        found[at] = _refused(row, problem)
            found.update(self._tokenised(rows, texts, special))
        return [found.get(at) or self._other(row) for at, row in enumerate(rows)]

    def _special(self, row: Row) -> bool | None:
        """Whether special tokens are added to the row's text; None if it is not text."""
        if row.kind == "prompt_token_ids":
            return None
        return not (row.kind == "messages" or (self._chat and row.fields["prompt"]))

    def _render(self, row: Row) -> str:
        value = row.fields[row.kind]
        if row.kind == "messages":
            return self._text.render_chat(value)
        if not value:
            raise InvalidRequestError("the prompt is empty; it needs some text")
        if self._chat:
            return self._text.render_chat([{"role": "user", "content": value}])
        return str(value)

    def _tokenised(
        self, rows: Seq[Row | BadRow], texts: dict[int, str], special: bool
    ) -> dict[int, Ready]:
        if not texts:
            return {}
        try:
            ids = self._text.encode_many(list(texts.values()), special=special)
        except Exception as problem:  # a text that no tokenizer takes, such as half a surrogate
            if len(texts) == 1:
                return {at: _refused(rows[at], problem) for at in texts}
            each = [self._tokenised(rows, {at: text}, special) for at, text in texts.items()]
            return {at: ready for one in each for at, ready in one.items()}
        return {
            at: Ready(rows[at], text, one)
            for (at, text), one in zip(texts.items(), ids, strict=True)
        }

    def _other(self, row: Row | BadRow) -> Ready:
        if isinstance(row, BadRow):
            return Ready(row, error=row.error)
        try:
            text, ids = self._llm.encode_prompt({row.kind: row.fields[row.kind]})
        except Exception as problem:
            return _refused(row, problem)
        return Ready(row, text, ids)


def _refused(row: Row | BadRow, problem: Exception) -> Ready:
    """The row with what was wrong with it: its own fault, unless Stoker says otherwise."""
    failed = isinstance(problem, StokerError) and not isinstance(problem, InvalidRequestError)
    told = str(problem) if isinstance(problem, StokerError) else f"it can't be encoded: {problem}"
    return Ready(row, error=told, status="failed" if failed else "bad_row")


class Feeder:
    """A thread that encodes rows ahead of who takes them. Leave its context to end it.

    Args:
        rows: what is read; an exception it raises is raised where the rows are taken.
        encoder: makes them ready.
    """

    def __init__(self, rows: Iterator[Row | BadRow], encoder: Encoder) -> None:
        self._rows, self._encoder = rows, encoder
        self._ready: queue.Queue[list[Ready] | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()

    def take(self, wait: bool) -> list[Ready] | None:
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

    def _put(self, item: list[Ready] | BaseException | None) -> bool:
        """Hand over, unless nobody takes any more."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
