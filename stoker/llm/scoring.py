"""Results of `LLM.embed`, `classify` and `score`, and the arithmetic between a vector and them.

Names of the results are those known from vLLM. Works on finished outputs of the engine and on
lists; knows no engine. Called by the Python face.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Generic, TypeVar

from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import RequestOutput
from stoker.errors import InvalidRequestError
from stoker.model.heads import Head
from stoker.model.sentence import EmbeddingDefaults

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class EmbeddingOutput:
    """An embedding of as many numbers as the model's hidden states have."""

    embedding: list[float]


@dataclass(frozen=True)
class ClassificationOutput:
    """A value for each label, in the order of the labels.

    Attributes:
        probs: a softmax over the labels, for a multi-label problem a sigmoid of each; None for
            a regression, which has no probabilities.
        logits: the head's own values.
        label: name of the likeliest label; None for a regression.
    """

    probs: list[float] | None
    logits: list[float]
    label: str | None


@dataclass(frozen=True)
class ScoringOutput:
    """A cosine similarity, or what a model with one label gives."""

    score: float


@dataclass(frozen=True)
class PoolingRequestOutput(Generic[T]):
    """What a call gives for one prompt, or for one pair of them.

    Attributes:
        request_id: of the engine's request; of the second one for a similarity.
        prompt: the text, where there was one; None for a pair of prompts.
        prompt_token_ids: all tokens that were read, of both prompts of a pair.
        outputs: the result itself.
        num_cached_tokens: prompt tokens taken from the prefix cache.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: T
    num_cached_tokens: int = 0
    finished: bool = True


def embedding_params(
    defaults: EmbeddingDefaults, pooling: str | None, normalize: bool | None
) -> PoolingParams:
    """The caller's choice, and what the model's folder says where there is none.

    Raises:
        InvalidRequestError: the pooling is unknown, or must be chosen.
    """
    if pooling is None:
        if defaults.problem:
            raise InvalidRequestError(f"{defaults.problem}; choose with pooling=... in embed")
        pooling = defaults.pooling
    normalize = defaults.normalize if normalize is None else normalize
    return PoolingParams("embed", pooling, normalize)


def embeddings(outputs: Seq[RequestOutput]) -> list[PoolingRequestOutput[EmbeddingOutput]]:
    return [_result(one, EmbeddingOutput(_vector(one))) for one in outputs]


def require_labels(head: Head) -> None:
    """Raise InvalidRequestError if all that `head` gives is a single score."""
    if head.problem == "regression" and len(head.labels) == 1:
        raise InvalidRequestError(
            f"this model gives one value ({head.labels[0]}) and no probabilities; call score"
        )


def require_one_label(head: Head) -> None:
    """Raise InvalidRequestError if `head` has several labels."""
    if len(head.labels) > 1:
        raise InvalidRequestError(
            f"this model has {len(head.labels)} labels ({', '.join(head.labels)}) and no single "
            "score; call classify"
        )


def classifications(
    outputs: Seq[RequestOutput], head: Head
) -> list[PoolingRequestOutput[ClassificationOutput]]:
    found = []
    for one in outputs:
        logits = _vector(one)
        probs, label = None, None
        if head.problem != "regression":
            probs = activate(logits, head.problem)
            label = head.labels[probs.index(max(probs))]
        found.append(_result(one, ClassificationOutput(probs, logits, label)))
    return found


def label_scores(
    outputs: Seq[RequestOutput], head: Head
) -> list[PoolingRequestOutput[ScoringOutput]]:
    """The single label's value, through a sigmoid if the problem type asks for it."""
    return [_result(one, ScoringOutput(activate(_vector(one), head.problem)[0])) for one in outputs]


def activate(logits: Seq[float], problem: str) -> list[float]:
    """Probabilities of a classification; the values themselves for a regression."""
    if problem == "regression":
        return list(logits)
    if problem == "multi_label_classification":
        return [_sigmoid(value) for value in logits]
    most = max(logits)
    powers = [math.exp(value - most) for value in logits]
    return [power / sum(powers) for power in powers]


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)


def pair_up(left: Seq[T], right: Seq[U]) -> list[tuple[T, U]]:
    """Pairs of equally long lists, or of the only one on the left with each on the right.

    Raises:
        InvalidRequestError: the lengths don't match.
    """
    if len(left) == 1:
        return [(left[0], one) for one in right]
    if len(left) != len(right):
        raise InvalidRequestError(
            f"there are {len(left)} first texts and {len(right)} second ones; pass as many of "
            "both, or a single first one"
        )
    return list(zip(left, right, strict=True))


def similarities(
    pairs: Seq[tuple[RequestOutput, RequestOutput]],
) -> list[PoolingRequestOutput[ScoringOutput]]:
    """Cosine similarity of the embeddings of each pair."""
    return [
        PoolingRequestOutput(
            right.request_id,
            None,
            left.prompt_token_ids + right.prompt_token_ids,
            ScoringOutput(cosine(_vector(left), _vector(right))),
            left.num_cached_tokens + right.num_cached_tokens,
        )
        for left, right in pairs
    ]


def cosine(a: Seq[float], b: Seq[float]) -> float:
    """The cosine of the angle between two vectors; 0 if one of them is zero."""
    lengths = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def _vector(output: RequestOutput) -> list[float]:
    assert output.vector is not None, "not a finished pooled request"
    return output.vector


def _result(output: RequestOutput, result: T) -> PoolingRequestOutput[T]:
    return PoolingRequestOutput(
        output.request_id,
        output.prompt,
        output.prompt_token_ids,
        result,
        output.num_cached_tokens,
    )
