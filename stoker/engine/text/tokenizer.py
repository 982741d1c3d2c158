"""The model's tokenizer and chat template, through transformers, imported when first needed.

Knows no engine. Called by the faces, which turn prompts into token ids.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, NamedTuple

from stoker.engine.request.vectors import PromptVectors
from stoker.engine.text.chat import ChatTemplate, processor_template
from stoker.engine.text.chat_options import PLAIN, ChatOptions
from stoker.engine.text.detokenizer import TokenTexts
from stoker.engine.text.token_bound import TokenBound
from stoker.engine.text.token_bytes import TokenBytes, token_bytes
from stoker.engine.text.token_windows import REPLACEMENT, DecodedTokens
from stoker.engine.text.tokenizer_files import explain, is_failure, read_tokenizer
from stoker.errors import InvalidRequestError, ModelError, PromptTooLongError, StokerError

LONG = 1 << 16  # characters of a text that is tokenised without asking whether it is too long
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

Message = Mapping[str, Any]
Prompt = str | Seq[int] | Mapping[str, Any]


class Encoded(NamedTuple):
    """A prompt as requests take it."""

    text: str | None  # where there is one
    ids: list[int]
    vectors: PromptVectors | None = None  # that some of the ids stand for


def import_tokenizers() -> None:
    """Import now what the first use of a tokenizer imports, which takes most of a second."""
    from transformers import AutoTokenizer  # noqa: F401


class TextCodec:
    """Encodes prompts and chats, decodes tokens; makes the tokenizer on first use.

    Attributes:
        max_tokens: of a prompt. A text that is sure to have more is refused without tokenising it.
    """

    def __init__(self, folder: Path) -> None:
        self.max_tokens: int | None = None
        self._folder = folder
        self._bound: TokenBound | None = None
        self._tokenizer: Any = None
        self._token_texts: TokenTexts | None = None
        self._template: ChatTemplate | None = None
        self._making = threading.Lock()

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer.

        Raises:
            ModelError: the folder has none, or it cannot be read.
        """
        if self._tokenizer is None:
            with self._making:  # threads that come meanwhile find it made
                self._tokenizer = self._tokenizer or self._make()
        return self._tokenizer

    def _make(self) -> Any:
        if not any((self._folder / name).is_file() for name in TOKENIZER_FILES):
            raise ModelError(
                f"{self._folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES)}); "
                "copy the model's tokenizer files there, or pass prompts as token ids"
            )
        # Texts are encoded one by one, so the tokenizer's own pool of threads would be idle.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            tokenizer = read_tokenizer(self._folder)
        except BaseException as problem:  # whatever the libraries raise on damaged files
            if not is_failure(problem):
                raise
            raise ModelError(explain(self._folder, problem)) from problem
        if not tokenizer.chat_template:
            tokenizer.chat_template = processor_template(self._folder)
        return tokenizer

    @property
    def available(self) -> bool:
        return any((self._folder / name).is_file() for name in TOKENIZER_FILES)

    @property
    def has_chat_template(self) -> bool:
        return self.available and bool(self.tokenizer.chat_template)

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokenizer's own end of sequence, if it has one.

        Raises:
            ModelError: it cannot be read.
        """
        eos = self.tokenizer.eos_token_id
        return frozenset() if eos is None else frozenset((eos,))

    @functools.cached_property
    def special_tokens(self) -> dict[int, str]:
        """The tokens that `decode` leaves out, by id, with their texts."""
        added: dict[int, Any] = self.tokenizer.added_tokens_decoder
        special = {token: one.content for token, one in added.items() if one.special}
        ids, texts = self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens
        return special | dict(zip(ids, texts, strict=True))

    def encode(self, text: str) -> list[int]:
        """Token ids with the special tokens that the tokenizer adds to plain text.

        A text that begins with the BOS token's text gets no second one.

        Raises:
            InvalidRequestError: the text is not Unicode.
            PromptTooLongError: it has more than `max_tokens`.
        """
        with _encodable(text):
            self.require_room(text)
            ids: list[int] = self.tokenizer.encode(text)
        return self._one_bos(text, ids)

    def _one_bos(self, text: str, ids: list[int]) -> list[int]:
        """`ids` of `text` without the BOS that was added to one in the text itself.

        "<s>hi"     [1, 1, 9]      ->  [1, 9]
        "<s><s>hi"  [1, 1, 1, 9]   ->  [1, 1, 9]      two are asked for
        """
        if len(ids) < 2 or ids[0] != ids[1] or ids[0] != self.tokenizer.bos_token_id:
            return ids
        bos: str = self.tokenizer.bos_token
        return ids[1:] if text.startswith(bos) and self._adds_bos else ids

    @functools.cached_property
    def _adds_bos(self) -> bool:
        """Whether the tokenizer puts a BOS before plain text."""
        return bool(self.tokenizer.encode("a")[:1] == [self.tokenizer.bos_token_id])

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of the text and nothing else; raises as `encode` does."""
        with _encodable(text):
            self.require_room(text)
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def require_room(self, text: str) -> None:
        """Refuse a text far longer than any prompt may be.

        Raises:
            PromptTooLongError: it has more than `max_tokens`.
        """
        most = self.max_tokens
        if most is None or len(text) <= max(LONG, 4 * most):
            return
        if self._bound is None:
            backend = getattr(self.tokenizer, "backend_tokenizer", None)
            if backend is None:
                return
            self._bound = TokenBound(backend)
        count = self._bound.at_least(text, most)
        if count > most:
            raise PromptTooLongError(
                f"the prompt has at least {count} tokens, in {len(text)} characters, and the "
                f"context is {most}; shorten it"
            )

    def encode_many(self, texts: list[str], *, special: bool) -> list[list[int]]:
        """Token ids of each text, as `encode` (special) or `encode_plain` gives them.

        Texts of any length are tokenised; see `require_room`.
        """
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        with _encodable(*texts):
            if hasattr(backend, "encode_batch_fast") and self._stateless(backend):
                batch = backend.encode_batch_fast(texts, add_special_tokens=special)
                found = [one.ids for one in batch]
            else:
                found = [self.tokenizer.encode(text, add_special_tokens=special) for text in texts]
        if not special:
            return found
        return [self._one_bos(text, ids) for text, ids in zip(texts, found, strict=True)]

    @staticmethod
    def _stateless(backend: Any) -> bool:
        """Whether the backend encodes as transformers does, which asks for no truncation."""
        return backend.truncation is None and backend.padding is None

    def encode_pair(self, first: str, second: str) -> list[int]:
        """Token ids of two texts joined as the tokenizer joins pairs."""
        with _encodable(first, second):
            self.require_room(first)
            self.require_room(second)
            ids: list[int] = self.tokenizer.encode(first, second)
        return ids

    def encode_chat(
        self,
        messages: Iterable[Message],
        options: ChatOptions = PLAIN,
        where: str = "messages",
    ) -> Encoded:
        """The prompt that the chat template makes of `messages`: `render_chat`, with its ids."""
        text = self.render_chat(messages, options, where)
        return Encoded(text, self.encode_plain(text))

    def render_chat(
        self,
        messages: Iterable[Message],
        options: ChatOptions = PLAIN,
        where: str = "messages",
    ) -> str:
        """The prompt that the chat template makes of `messages`, as text.

        Args:
            messages: as OpenAI and transformers have them.
            options: what else the template is given.
            where: what to call the messages in errors.

        Raises:
            InvalidRequestError: the messages are not a chat, the template refuses them or leaves
                part of them out, or an option has no effect.
            ModelError: the model's template is none.
        """
        return self._chat_template().render(messages, options, where)

    def check_chat_options(self, options: ChatOptions) -> None:
        """Refuse options that no chat could have, as `render_chat` would."""
        self._chat_template().template(options).check(options)

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            self._template = ChatTemplate(self.tokenizer)
        return self._template

    def serialised(self) -> str:
        """The tokenizer as the text of a tokenizer.json, without padding and truncation.

        Raises:
            InvalidRequestError: it is not one of the tokenizers library.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InvalidRequestError(
                "answers can be constrained with tokenizers that have a tokenizer.json, and this "
                f"model's {type(self.tokenizer).__name__} has none"
            )
        fields = json.loads(backend.to_str())
        fields["padding"] = fields["truncation"] = None
        return json.dumps(fields)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of the tokens, as transformers has it.

        What is whole around a part of a character is kept (`token_bytes.py`).
        """
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        if REPLACEMENT in text and isinstance(self.token_texts, TokenBytes):
            return self.token_texts.decode(token_ids, not skip_special_tokens)
        return text

    @property
    def token_texts(self) -> TokenTexts:
        """What single tokens stand for."""
        if self._token_texts is None:
            self._token_texts = token_bytes(self.tokenizer) or DecodedTokens(self)
        return self._token_texts


@contextlib.contextmanager
def _encodable(*texts: str) -> Iterator[None]:
    """Say what is wrong with texts that a tokenizer can't take.

    Of half a surrogate pair, as a text has it that was cut inside an emoji, tokenizers say that
    it is no text. A tokenizer without a token for what it does not know may raise anything.

    Raises:
        InvalidRequestError: one of them has such a half, or the tokenizer refuses it.
    """
    try:
        yield
    except (StokerError, MemoryError):
        raise
    except Exception as problem:
        for text in texts:
            with contextlib.suppress(UnicodeEncodeError):
                text.encode()
                continue
            at = next(at for at, one in enumerate(text) if "\ud800" <= one <= "\udfff")
            raise InvalidRequestError(
                f"the text is not Unicode: its character {at} is {text[at]!r}, half of a surrogate "
                "pair; mend it with text.encode('utf-16', 'surrogatepass').decode('utf-16', "
                "'replace')"
            ) from None
        raise InvalidRequestError(f"the tokenizer can't encode the text: {problem}") from problem
