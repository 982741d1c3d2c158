"""Embeddings, classes and scores: choose the pooling, prepare the prompts, run the requests.

Results are made in scoring.py. What each call means is said in `LLM`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import RequestOutput
from stoker.engine.text.tokenizer import Encoded, Prompt, TextCodec
from stoker.errors import InvalidRequestError
from stoker.llm import scoring
from stoker.llm.progress_bar import UseTqdm
from stoker.llm.prompts import Prompts, as_list, each_named
from stoker.llm.scoring import (
    ClassificationOutput,
    EmbeddingOutput,
    PoolingRequestOutput,
    ScoringOutput,
)
from stoker.llm.session import NAME, Session
from stoker.model.heads import Head
from stoker.model.sentence import EmbeddingDefaults

FIRST, SECOND, PAIR = "texts_1[{}]", "texts_2[{}]", "pair {}"  # in messages about `score`


class PooledRequests:
    """The calls of `LLM` that generate nothing.

    Args:
        session: runs the requests.
        text: joins pairs of texts.
        encode: makes text and token ids of a prompt.
        head: the model's head, with its labels.
        defaults: how to embed when the caller does not say.
    """

    def __init__(
        self,
        session: Session,
        text: TextCodec,
        encode: Callable[[Prompt], Encoded],
        head: Head,
        defaults: EmbeddingDefaults,
    ) -> None:
        self._session = session
        self._text = text
        self._encode_prompt = encode
        self._head = head
        self._defaults = defaults

    def embed(
        self, prompts: Prompts, pooling: str | None, normalize: bool | None, use_tqdm: UseTqdm
    ) -> list[PoolingRequestOutput[EmbeddingOutput]]:
        params = scoring.embedding_params(self._defaults, pooling, normalize)
        return scoring.embeddings(self._run(self._encode(prompts), params, use_tqdm))

    def classify(
        self, prompts: Prompts, use_tqdm: UseTqdm
    ) -> list[PoolingRequestOutput[ClassificationOutput]]:
        self._session.engine.require("classify")
        scoring.require_labels(self._head)
        outputs = self._head_values(self._encode(prompts), use_tqdm)
        return scoring.classifications(outputs, self._head)

    def score(
        self, texts_1: Prompts, texts_2: Prompts | None, use_tqdm: UseTqdm
    ) -> list[PoolingRequestOutput[ScoringOutput]]:
        if self._head.labels:
            scoring.require_one_label(self._head)
            name = (FIRST if texts_2 is None else PAIR).format
            outputs = self._head_values(self._join(texts_1, texts_2), use_tqdm, name)
            return scoring.label_scores(outputs, self._head)
        if texts_2 is None:
            raise InvalidRequestError(
                "this model has no scoring head and compares two texts; pass texts_2 as well"
            )
        params = scoring.embedding_params(self._defaults, None, None)
        left, right = self._encode(texts_1, FIRST), self._encode(texts_2, SECOND)
        scoring.pair_up(left, right)  # refuses before anything runs
        first = len(left)
        outputs = self._run(
            [*left, *right],
            params,
            use_tqdm,
            lambda at: FIRST.format(at) if at < first else SECOND.format(at - first),
        )
        pairs = scoring.pair_up(outputs[: len(left)], outputs[len(left) :])
        return scoring.similarities(pairs)

    def _run(
        self,
        prompts: Seq[Encoded],
        params: PoolingParams,
        use_tqdm: UseTqdm,
        name: Callable[[int], str] = NAME,
    ) -> list[RequestOutput]:
        """Pool each prompt; outputs in their order."""
        session, plain = self._session, SamplingParams()
        return session.run(
            lambda: [session.request(prompt, plain, pooling=params) for prompt in prompts],
            name=name,
            use_tqdm=use_tqdm,
        )

    def _encode(self, prompts: Prompts, name: str = "prompt {}") -> list[Encoded]:
        return each_named(self._encode_prompt, as_list(prompts), name)

    def _join(self, texts_1: Prompts, texts_2: Prompts | None) -> list[Encoded]:
        """Each text, or each pair as one prompt."""
        if texts_2 is None:
            return self._encode(texts_1, FIRST)
        pairs = scoring.pair_up(as_list(texts_1), as_list(texts_2))
        return each_named(self._encode_pair, pairs, PAIR)

    def _encode_pair(self, pair: tuple[Prompt, Prompt]) -> Encoded:
        first, second = pair
        if not (isinstance(first, str) and isinstance(second, str)):
            raise InvalidRequestError(
                "pairs for a scoring head must be texts; join token ids yourself and pass "
                "them as texts_1"
            )
        return Encoded(None, self._text.encode_pair(first, second))

    def _head_values(
        self, prompts: Seq[Encoded], use_tqdm: UseTqdm, name: Callable[[int], str] = NAME
    ) -> list[RequestOutput]:
        """The head's output for each prompt, one number per label."""
        trimmed = [one._replace(ids=self._head.without_padding(one.ids)) for one in prompts]
        return self._run(trimmed, PoolingParams("classify"), use_tqdm, name)
