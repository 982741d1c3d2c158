"""Makes training batches: packed rows of chats and of text, with a weight for each target.

Every batch follows from (seed, step, progress) alone. Does not train, and reads only the
tokens that tokenizer.py wrote.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skills import Case, make_case
from tokenizer import END, chat_prompt
from tokenizers import Tokenizer

TEXT_SHARES = (0.2, 0.12)  # of the rows, in the first half and in the second
TEXT_WEIGHT = 0.3
# How often each skill is drawn (cases, not tokens), at first and later: sorting and arithmetic
# are learned last and take over once the others are known.
FIRST_WEIGHTS = {
    "dates": 0.18,
    "recall": 0.2,
    "copy": 0.17,
    "sort": 0.22,
    "arithmetic": 0.1,
    "extract": 0.05,
    "sequence": 0.08,
}
SECOND_WEIGHTS = {
    "dates": 0.06,
    "recall": 0.05,
    "copy": 0.1,
    "sort": 0.55,
    "arithmetic": 0.12,
    "extract": 0.03,
    "sequence": 0.09,
}


@dataclass
class Batch:
    """Token ids of shape (rows, length + 1) and a weight for each of the `length` targets."""

    ids: np.ndarray
    weights: np.ndarray


def row_length(rng: random.Random, progress: float) -> int:
    """Short rows first; the last fifth has some rows of the full context."""
    if progress < 0.3:
        return 256
    if progress < 0.5:
        return 512
    if progress < 0.8:
        return rng.choice([256, 256, 512, 1024])
    return rng.choice([256, 256, 256, 256, 256, 512, 1024, 2048, 4096])


def list_sizes(skill: str, length: int, progress: float) -> tuple[int, int]:
    """The range of list lengths of a skill for rows of this length."""
    ramp = min(1.0, progress / 0.25)
    if skill == "recall":
        longest = {256: 4 + int(16 * ramp), 512: 50, 1024: 110, 2048: 230, 4096: 470}[length]
        return 2 if length <= 512 else longest // 4, longest
    if skill == "copy":
        return 2, 4 + int(22 * ramp)
    if skill == "sort":
        return 3 if ramp > 0.5 else 2, 3 + int(5 * ramp)
    return 1, 1


class Batches:
    """The stream of batches for one run.

    Args:
        data: the folder of the tokenizer and of the text's tokens.
        seed: of all batches.
        switch: share of the run after which sorting and arithmetic take over.
    """

    def __init__(self, data: Path, seed: int, switch: float) -> None:
        self.tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
        self.text = np.load(data / "train.npy", mmap_mode="r")
        self.seed = seed
        self.switch = switch
        self.end = self.tokenizer.token_to_id(END)

    def make(self, step: int, progress: float, tokens: int) -> Batch:
        """The batch of one step, about `tokens` tokens."""
        rng = random.Random(f"{self.seed}-{step}")
        length = row_length(rng, progress)
        rows = max(1, tokens // length)
        ids = np.zeros((rows, length + 1), dtype=np.int64)
        weights = np.zeros((rows, length), dtype=np.float32)
        for row in range(rows):
            if rng.random() < TEXT_SHARES[progress >= 0.5]:
                start = rng.randrange(len(self.text) - length - 1)
                ids[row] = self.text[start : start + length + 1]
                weights[row] = TEXT_WEIGHT
            else:
                self._fill(rng, ids[row], weights[row], progress)
        return Batch(ids, weights)

    def _fill(
        self, rng: random.Random, ids: np.ndarray, weights: np.ndarray, progress: float
    ) -> None:
        """Pack chats into one row until three in turn do not fit."""
        length, used, misses = len(weights), 0, 0
        shares = FIRST_WEIGHTS if progress < self.switch else SECOND_WEIGHTS
        while misses < 3:
            skill = rng.choices(list(shares), list(shares.values()))[0]
            if length > 1024 and used == 0:
                skill = "recall"
            case = make_case(skill, rng, list_sizes(skill, length, progress), held_out=False)
            chat, counted = self.encode(case, rng)
            if used + len(chat) > length + 1:
                misses += 1
                continue
            ids[used : used + len(chat)] = chat
            first = max(used - 1, 0)
            weights[first : used + len(chat) - 1] = counted[1 if used == 0 else 0 :]
            used += len(chat)

    def encode(self, case: Case, rng: random.Random | None = None) -> tuple[list[int], list[int]]:
        """Ids of a chat, and 1 for each id that is part of an answer.

        With `rng`, a recall case goes on for some turns that ask for other keys.
        """
        turns = [(case.prompt, case.answer)]
        if rng is not None and case.skill == "recall":
            turns += _more_questions(case, rng)
        ids: list[int] = []
        counted: list[int] = []
        for prompt, answer in turns:
            question = self.tokenizer.encode(chat_prompt(prompt)).ids
            reply = [*self.tokenizer.encode(answer).ids, self.end]
            ids += question + reply
            counted += [0] * len(question) + [1] * len(reply)
        return ids, counted


def _more_questions(case: Case, rng: random.Random) -> list[tuple[str, str]]:
    """Further questions about the list of a recall case, as (prompt, answer)."""
    pairs = [line.split(": ") for line in case.prompt.split("\n") if line.count(": ") == 1]
    wanted = rng.sample(pairs, min(len(pairs), rng.randint(0, 2 + len(pairs) // 8)))
    form = rng.choice(["What is the value of {}?", "And {}?", "Look up {}"])
    return [(form.format(key), value) for key, value in wanted]
