"""What a pooled request asks for: one vector of its prompt instead of generated tokens.

Knows positions and names, never tensors (pooler.py computes) nor models. Made by the Python
face, read by the scheduler, which turns it into the rows of each step whose states are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stoker.errors import InvalidRequestError, suggest

POOLINGS = ("last", "mean", "cls")
TASKS = ("embed", "classify")
NO_STATES = (0, 0)

CALLS = {  # what can be called on a model that can do a task
    "generate": "generate, chat and stream",
    "embed": "embed",
    "classify": "classify or score",
}
REASONS = {  # why a model can't do a task
    "generate": "generate text: it has no language-model head",
    "embed": "embed",
    "classify": "classify: it has no classification head",
}


@dataclass(frozen=True)
class PoolingParams:
    """How the hidden states of a prompt become one vector.

    Args:
        task: "embed" gives the pooled state itself; "classify" sends it through the model's
            classification head and gives a value per label, as the head made it.
        pooling: "last" takes the state of the last token, "cls" that of the first, "mean" the
            mean over all tokens; always after the model's final norm.
        normalize: scale an embedding to length 1; not for classification.

    Raises:
        InvalidRequestError: a name is unknown, with the list of known ones.
    """

    task: str = "embed"
    pooling: str = "last"
    normalize: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (
            ("task", self.task, TASKS),
            ("pooling", self.pooling, POOLINGS),
        ):
            if value not in known:
                raise InvalidRequestError(
                    f"{name} {value!r} is not known; {suggest(str(value), [*known])}"
                )
        if not isinstance(self.normalize, bool):
            raise InvalidRequestError(f"normalize must be True or False, not {self.normalize!r}")

    def states(self, start: int, end: int, length: int) -> tuple[int, int]:
        """The slice of the tokens at positions start to end - 1 whose states are wanted.

        Args:
            start, end: the part of the prompt that a step computes.
            length: tokens of the prompt.

        Returns: (first, past the last), counted from `start`; (0, 0) if none is wanted.
        """
        if self.pooling == "mean":
            return 0, end - start
        at = 0 if self.pooling == "cls" else length - 1
        return (at - start, at - start + 1) if start <= at < end else NO_STATES

    @property
    def reuses(self) -> bool:
        """Whether cached keys and values may replace computing the beginning of a prompt.

        They hold no final hidden states, so not where one of these is wanted. The last token
        is always computed, since the prefix index leaves it out.
        """
        return self.pooling == "last"


def prompt_limit(prompt: int, context: int, capacity: int) -> int:
    """The most tokens a pooled sequence can have, which are those of its prompt.

    Raises:
        InvalidRequestError: the prompt is longer than the context or the whole cache.
    """
    if prompt > context:
        raise InvalidRequestError(
            f"the prompt has {prompt} tokens and the context is {context}; shorten it"
        )
    if prompt > capacity:
        raise InvalidRequestError(
            f"the prompt has {prompt} tokens and the whole cache holds {capacity}; "
            "shorten it or give the cache more memory"
        )
    return prompt


def require(task: str, able: Iterable[str]) -> None:
    """Check that a model can do `task`.

    Args:
        task: "generate", "embed" or "classify".
        able: the tasks the model can do.

    Raises:
        InvalidRequestError: it can't; the message names what can be called.
    """
    known = set(able)
    if task not in known:
        calls = ", or ".join(words for name, words in CALLS.items() if name in known)
        raise InvalidRequestError(f"this model cannot {REASONS[task]}; call {calls}")
