"""Read rows, make prompts of them and tokenise them in batches, ahead of the engine.

A thread keeps a few batches ready, so the engine never waits for the tokenizer. Jobs and replicas
use it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice

from stoker.engine.request.params import SamplingParams
from stoker.engine.text.chat_options import ChatOptions
from stoker.engine.text.tokenizer import TextCodec
from stoker.errors import InvalidRequestError, PromptTooLongError, StokerError
from stoker.job.prompts import PromptBuilder, RowPrompt
from stoker.job.rows import BadRow, Row
from stoker.job.settings import JobSettings
from stoker.llm.llm import LLM

BATCH = 128  # rows encoded together
LEAVE = 0.5  # seconds that the thread may take to end
AHEAD = 8  # prepared batches kept in the queue
TOGETHER = 1 << 20  # characters tokenised at once, which take some 400 bytes of memory each


@dataclass(frozen=True)
class PreparedRow:
    """A tokenised row; one with an `error` goes straight to the output with that `status`.

    `params` are the row's own sampling parameters, None if it failed before they were known.
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
        InvalidRequestError: there is to be a chat, and the model has no template for one, or one
            that does not read `chat_template_kwargs`.
        ModelError: the model's chat template is none.
    """

    def __init__(self, llm: LLM, settings: JobSettings) -> None:
        self._llm = llm
        self._text: TextCodec = llm.text
        chat = not settings.raw and llm.text.has_chat_template
        self._prompts = PromptBuilder(settings.prompts, settings.params, chat)
        if chat:
            given = ChatOptions(template_kwargs=settings.prompts.chat_template_kwargs)
            llm.text.check_chat_options(given)

    def encode(self, rows: Seq[Row | BadRow]) -> list[PreparedRow]:
        """Prepare each row; a row that cannot be prepared becomes an error row."""
        found: dict[int, PreparedRow] = {}
        prompts: dict[int, RowPrompt] = {}
        for at, row in enumerate(rows):
            if isinstance(row, BadRow):
                found[at] = PreparedRow(row, error=row.error)
                continue
            try:
                prompts[at] = self._prompts.ask(row)
            except Exception as problem:
                found[at] = _refused(row, problem)
        for special in (False, True):
            texts: dict[int, str] = {}
            for at, prompt in prompts.items():
                if _special(prompt) == special:
                    try:
                        texts[at] = self._render(rows[at], prompt)
                        self._text.require_room(texts[at])
                    except Exception as problem:
                        texts.pop(at, None)
                        found[at] = _refused(rows[at], problem)
            for some in _in_groups(texts):
                found.update(self._tokenised(rows, prompts, some, special))
        return [found.get(at) or self._tokens(row, prompts[at]) for at, row in enumerate(rows)]

    def _render(self, row: Row | BadRow, prompt: RowPrompt) -> str:
        if prompt.kind == "messages":
            try:
                return self._text.render_chat(prompt.value, prompt.chat)
            except InvalidRequestError as problem:
                place = row.place if isinstance(row, Row) else ""
                raise InvalidRequestError(f"{place}: {problem}" if place else problem) from None
        if not prompt.value:
            raise InvalidRequestError("the prompt is empty; it needs some text")
        return str(prompt.value)

    def _tokenised(
        self,
        rows: Seq[Row | BadRow],
        prompts: dict[int, RowPrompt],
        texts: dict[int, str],
        special: bool,
    ) -> dict[int, PreparedRow]:
        try:
            ids = self._text.encode_many(list(texts.values()), special=special)
        except Exception as problem:  # a text that no tokenizer takes, such as half a surrogate
            if len(texts) == 1:
                return {at: _refused(rows[at], problem) for at in texts}
            each = [
                self._tokenised(rows, prompts, {at: text}, special) for at, text in texts.items()
            ]
            return {at: ready for one in each for at, ready in one.items()}
        return {
            at: PreparedRow(rows[at], text, one, prompts[at].params)
            for (at, text), one in zip(texts.items(), ids, strict=True)
        }

    def _tokens(self, row: Row | BadRow, prompt: RowPrompt) -> PreparedRow:
        """A row whose prompt is token ids."""
        try:
            text, ids, _ = self._llm.encode_prompt({prompt.kind: prompt.value})
        except Exception as problem:
            return _refused(row, problem)
        return PreparedRow(row, text, ids, prompt.params)


def _in_groups(texts: dict[int, str]) -> Iterator[dict[int, str]]:
    """The texts in their order, `TOGETHER` characters or one text at a time."""
    some: dict[int, str] = {}
    size = 0
    for at, text in texts.items():
        size += len(text)
        if some and size > TOGETHER:
            yield some
            some, size = {}, len(text)
        some[at] = text
    if some:
        yield some


def _special(prompt: RowPrompt) -> bool | None:
    """Whether special tokens are added to the row's text; None if it is not text."""
    return None if prompt.kind == "prompt_token_ids" else prompt.kind == "prompt"


def _refused(row: Row | BadRow, problem: Exception) -> PreparedRow:
    """The row with what was wrong with it: its own fault, unless Stoker says otherwise."""
    failed = isinstance(problem, StokerError) and not isinstance(problem, InvalidRequestError)
    told = str(problem) if isinstance(problem, StokerError) else f"it can't be encoded: {problem}"
    status = "failed" if failed else "bad_row"
    if isinstance(problem, PromptTooLongError):
        status = "too_long"
    return PreparedRow(row, error=told, status=status)


class Feeder:
    """A thread that encodes rows ahead of time. Leaving its context ends it.

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
        # a thread inside the tokenizer when Python ends would abort the process
        self._thread.join(LEAVE)

    def take(self, wait: bool) -> list[PreparedRow] | None:
        """Return the next rows: [] if none are ready, None once there are no more."""
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
        """Put a batch into the queue, unless the reader has left."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
