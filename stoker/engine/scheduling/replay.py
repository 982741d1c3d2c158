"""Runs steps without a model: the cache holds token ids instead of keys and values.

The next token is a hash of the whole visible context, read back through the block table, so
any mistake in scheduling, caching or positions changes the text. Used to replay a saved
trace of steps, and by tests and benchmarks as the fake model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from stoker.engine.scheduling.step import Step, StepItem

NextToken = Callable[[tuple[int, ...], int], int]


def hash_context(vocab_size: int) -> NextToken:
    """A next-token rule: a hash of (context, sample index), below `vocab_size`."""
    return lambda context, index: hash((context, index)) % vocab_size


class FakeCache:
    """Executes steps on a paged cache of token ids.

    Args:
        num_blocks, block_size: the pool's sizes.
        next_token: maps (visible context, sample index) to the token that is drawn.
    """

    def __init__(self, num_blocks: int, block_size: int, next_token: NextToken) -> None:
        self._size = block_size
        self._cells: list[list[int | None]] = [[None] * block_size for _ in range(num_blocks)]
        self._next_token = next_token
        self._last_tokens: dict[int, int] = {}  # by slot

    def run(self, step: Step) -> list[int]:
        """The drawn tokens, in the order of the items and of their draws.

        Raises:
            ValueError: an item's block table misses a position or reads one never written.
        """
        step = step.resolved(self._last_tokens)
        contents = [list(self._cells[src]) for src, _ in step.copies]  # all read before any write
        for (_, dst), content in zip(step.copies, contents, strict=True):
            self._cells[dst] = content
        for item in step.items:
            self._write(item)
        drawn = [
            self._next_token(self.context(item), index)
            for item in step.items
            for index in item.draws
        ]
        self._last_tokens.update(step.last_tokens(drawn))
        return drawn

    def context(self, item: StepItem) -> tuple[int, ...]:
        """The token ids that the item's last position sees."""
        seen: list[int] = []
        for block in item.blocks:
            for token in self._cells[block][: item.end - len(seen)]:
                if token is None:
                    raise ValueError(f"#{item.sequence} reads position {len(seen)}: not written")
                seen.append(token)
        if len(seen) < item.end:
            raise ValueError(f"#{item.sequence} has blocks for {len(seen)} of {item.end} tokens")
        return tuple(seen)

    def _write(self, item: StepItem) -> None:
        for at, token in enumerate(item.tokens, item.start):
            self._cells[item.blocks[at // self._size]][at % self._size] = token


def save_trace(path: Path, num_blocks: int, block_size: int, steps: Iterable[Step]) -> None:
    """Write a trace: a line with the pool's sizes, then one line per step."""
    with path.open("w") as file:
        file.write(json.dumps({"num_blocks": num_blocks, "block_size": block_size}) + "\n")
        file.writelines(step.to_json() + "\n" for step in steps)


def replay(path: Path, show: Callable[[str], None] = lambda line: None) -> int:
    """Run a saved trace again and check it: every item must see its own tokens, all written.

    Args:
        path: a file made by `save_trace`.
        show: receives each step as text.

    Returns: the number of steps.

    Raises:
        ValueError: the trace reads what was never written, or another sequence's tokens.
    """
    with path.open() as file:
        sizes = json.loads(file.readline())
        cache = FakeCache(sizes["num_blocks"], sizes["block_size"], lambda context, index: 0)
        known: dict[int, tuple[int, ...]] = {}
        count = 0
        for line in file:
            count += 1
            step = Step.from_json(line)
            show(str(step))
            cache.run(step)
            for item in step.items:
                context = cache.context(item)
                before = known.get(item.sequence, ())
                overlap = min(len(before), len(context))
                if context[:overlap] != before[:overlap]:
                    raise ValueError(
                        f"step {step.number}: #{item.sequence} sees other tokens than before"
                    )
                if len(context) > len(before):
                    known[item.sequence] = context
        return count
