"""The calls of `LLM` that generate nothing: embed, classify and score.

Chooses the pooling and prepares the prompts; the class that inherits runs the requests.
Results are made in scoring.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq

from stoker.engine.engine import Engine
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import RequestOutput
from stoker.engine.text.tokenizer import Encoded, Prompt, TextCodec
from stoker.errors import InvalidRequestError
from stoker.llm import scoring
from stoker.llm.scoring import (
    ClassificationOutput,
    EmbeddingOutput,
    PoolingRequestOutput,
    ScoringOutput,
)
from stoker.model.heads import Head
from stoker.model.sentence import EmbeddingDefaults

Prompts = Prompt | Seq[Prompt]


class PooledCalls(ABC):
    """What `LLM` inherits. Each call gives one result per prompt or pair, in their order.

    Attributes:
        engine, text: as in `LLM`.
        head: the model's head, its labels among it.
        embedding: how to embed when the caller does not say.
    """

    engine: Engine
    text: TextCodec
    head: Head
    embedding: EmbeddingDefaults

    @abstractmethod
    def _listed(self, prompts: Prompts) -> list[Prompt]:
        """One prompt or several, as a list that is not empty."""

    @abstractmethod
    def encode_prompt(self, prompt: Prompt) -> Encoded:
        """Text and token ids of a prompt in any form."""

    @abstractmethod
    def _pool(self, prompts: Seq[Encoded], params: PoolingParams) -> list[RequestOutput]:
        """Run pooled requests to their ends; outputs in the order of the prompts."""

    def embed(
        self, prompts: Prompts, *, pooling: str | None = None, normalize: bool | None = None
    ) -> list[PoolingRequestOutput[EmbeddingOutput]]:
        """Embed each prompt: its hidden states after the final norm, pooled to one vector.

        Args:
            prompts: as for `generate`.
            pooling: "last" (token), "mean" (of all tokens) or "cls" (the first token). None
                takes what a sentence-transformers folder says, else "last".
            normalize: scale to length 1. None takes what such a folder says, else True.

        Raises:
            InvalidRequestError: a prompt or a name can't be served; nothing has been run.
        """
        params = scoring.embedding_params(self.embedding, pooling, normalize)
        return scoring.embeddings(self._pool(self._encode(prompts), params))

    def classify(self, prompts: Prompts) -> list[PoolingRequestOutput[ClassificationOutput]]:
        """The probability of each label, for a model with a classification head.

        Trailing padding ids are no part of a prompt: the head looks at the token before them.

        Raises:
            InvalidRequestError: the model has no labels, or just one value to give (`score`),
                or a prompt can't be served; nothing has been run.
        """
        self.engine.require("classify")
        scoring.require_labels(self.head)
        outputs = self._head_values(self._encode(prompts))
        return scoring.classifications(outputs, self.head)

    def score(
        self, texts_1: Prompts, texts_2: Prompts | None = None
    ) -> list[PoolingRequestOutput[ScoringOutput]]:
        """A number for each text, or for each pair of texts.

        A model with a classification head of one label, such as a reward model, gives that
        label's value: of each text, or of each pair joined by its tokenizer. A model without
        such a head gives the cosine similarity of the embeddings of each pair. A single first
        text is paired with every second one.

        Raises:
            InvalidRequestError: the model has several labels, the lists don't match, or a text
                can't be served; nothing has been run.
        """
        if self.head.labels:
            scoring.require_one_label(self.head)
            outputs = self._head_values(self._join(texts_1, texts_2))
            return scoring.label_scores(outputs, self.head)
        if texts_2 is None:
            raise InvalidRequestError(
                "this model has no scoring head and compares two texts; pass texts_2 as well"
            )
        params = scoring.embedding_params(self.embedding, None, None)
        left, right = self._encode(texts_1), self._encode(texts_2)
        scoring.pair_up(left, right)  # refuses before anything runs
        outputs = self._pool([*left, *right], params)
        pairs = scoring.pair_up(outputs[: len(left)], outputs[len(left) :])
        return scoring.similarities(pairs)

    def _encode(self, prompts: Prompts) -> list[Encoded]:
        return [self.encode_prompt(prompt) for prompt in self._listed(prompts)]

    def _join(self, texts_1: Prompts, texts_2: Prompts | None) -> list[Encoded]:
        """Each text, or each pair as one prompt."""
        if texts_2 is None:
            return self._encode(texts_1)
        made: list[Encoded] = []
        for first, second in scoring.pair_up(self._listed(texts_1), self._listed(texts_2)):
            if not (isinstance(first, str) and isinstance(second, str)):
                raise InvalidRequestError(
                    "pairs for a scoring head must be texts; join token ids yourself and pass "
                    "them as texts_1"
                )
            made.append((None, self.text.encode_pair(first, second)))
        return made

    def _head_values(self, prompts: Seq[Encoded]) -> list[RequestOutput]:
        """The head's output for each prompt, one number per label."""
        made = [(text, self.head.without_padding(ids)) for text, ids in prompts]
        return self._pool(made, PoolingParams("classify"))
