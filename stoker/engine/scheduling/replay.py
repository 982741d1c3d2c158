"""Runs steps without a model: the cache holds token ids instead of keys and values.

The next token is a hash of the whole visible context, read back through the block table, so
any mistake in scheduling, caching or positions changes the text. Used to replay a saved
trace of steps, and by tests and benchmarks as the fake model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from pathlib import Path

from stoker.engine.blocks.block_pool import UNUSED
from stoker.engine.blocks.groups import GroupSize
from stoker.engine.scheduling.step import Step, StepItem
from stoker.ops.rounding import ceil_div

NextToken = Callable[[tuple[int, ...], int], int]


def hash_context(vocab_size: int) -> NextToken:
    """A next-token rule: a hash of (context, sample index), below `vocab_size`."""
    return lambda context, index: hash((context, index)) % vocab_size


class FakeCache:
    """Executes steps on a paged cache of token ids, with a group's visible set for each group.

    A block also knows its entry in the table that it was written through, so that a block of
    another place is noticed. A state is the tokens that it has seen.

    Args:
        groups: sizes and windows of the cache's groups.
        block_size: tokens of a block.
        next_token: maps (visible context, sample index) to the token that is drawn.
    """

    def __init__(self, groups: Seq[GroupSize], block_size: int, next_token: NextToken) -> None:
        self._size = block_size
        self._groups = tuple(group for group in groups if not group.keeps_state)
        self._blocks = [[_Block(block_size)] * group.num_blocks for group in self._groups]
        # of the groups behind those, by place
        self._states: list[dict[int, tuple[int, ...]]]
        self._states = [{} for _ in groups[len(self._groups) :]]
        self._next_token = next_token
        self._last_tokens: dict[int, int] = {}  # by slot

    def run(self, step: Step) -> list[int]:
        """The drawn tokens, in the order of the items and of their draws.

        Raises:
            ValueError: a position that an item sees is not in its block tables, was freed or never
                written, or differs between groups.
        """
        step = step.resolved(self._last_tokens)
        self._copy(step.copies)
        for item in step.items:
            self._write(item)
        self._copy(step.saves)
        drawn = [
            self._next_token(context, index)
            for item, contexts in zip(step.items, map(self._contexts, step.items), strict=True)
            for context in contexts
            for index in item.draws
        ]
        self._last_tokens.update(step.last_tokens(drawn))
        return drawn

    def _copy(self, copies: Seq[tuple[int, int, int]]) -> None:
        """Make copies, all of which are read before any is written."""
        targets = {(group, dst) for group, _, dst in copies}
        if len(targets) < len(copies):
            raise ValueError(f"a place is written twice: {list(copies)}")
        pages = len(self._blocks)
        contents = [
            self._blocks[group][src].copy() if group < pages else self._states[group - pages][src]
            for group, src, _ in copies
        ]
        for (group, _, dst), content in zip(copies, contents, strict=True):
            if isinstance(content, _Block):
                self._blocks[group][dst] = content
            else:
                self._states[group - pages][dst] = content

    def context(self, item: StepItem) -> tuple[int, ...]:
        """The token ids that the item's last position sees in the group that sees the most.

        The other groups see the end of that. What the item's other positions see is read as well.
        """
        return self._contexts(item)[-1]

    def _contexts(self, item: StepItem) -> list[tuple[int, ...]]:
        """`context` of each position that draws, or of the last one if none does."""
        views = [self._view(item, group) for group in range(len(self._groups))]
        views += [states[item.slot] for states in self._states]
        longest = max(views, key=len)
        for group, view in enumerate(views):
            if view != longest[len(longest) - len(view) :]:
                raise ValueError(
                    f"#{item.sequence} sees {view} in group {group}, and {longest} in another"
                )
        seen = [item.end for _ in self._states]
        most = max([*seen, *(group.window or item.end for group in self._groups)])
        ends = range(len(longest) - item.verify, len(longest) + 1)
        return [longest[max(0, end - most) : end] for end in ends]

    def _view(self, item: StepItem, group: int) -> tuple[int, ...]:
        """The tokens that the positions of `item` see in a group."""
        window, table = self._groups[group].window, item.tables[group]
        if len(table) * self._size < item.end:
            held = len(table) * self._size
            raise ValueError(f"#{item.sequence} has blocks for {held} of {item.end} tokens")
        first = 0 if window is None else max(0, item.start - window + 1)
        seen: list[int | None] = []
        begin = first // self._size
        for entry, number in enumerate(table[begin : ceil_div(item.end, self._size)], begin):
            where = f"#{item.sequence} reads block {number} at entry {entry} of group {group}"
            if number == UNUSED:
                raise ValueError(f"{where}: it was freed")
            block = self._blocks[group][number]
            if block.entry != entry:
                raise ValueError(f"{where}: it was written as entry {block.entry}")
            seen += block.tokens
        visible = seen[first - begin * self._size : item.end - begin * self._size]
        found = tuple(token for token in visible if token is not None)
        if len(found) < len(visible):
            at = first + visible.index(None)
            raise ValueError(f"#{item.sequence} reads position {at} of group {group}: not written")
        return found

    def _write(self, item: StepItem) -> None:
        size = self._size
        for blocks, table in zip(self._blocks, item.tables, strict=True):
            for at, token in enumerate(item.tokens, item.start):
                entry = at // size
                block = blocks[table[entry]]
                if block.entry != entry:
                    block = blocks[table[entry]] = _Block(size, entry)
                block.tokens[at % size] = token
        for states in self._states:
            before = states.get(item.slot, ()) if item.start else ()
            if len(before) != item.start:
                raise ValueError(
                    f"#{item.sequence} goes on from position {item.start} with the state in slot "
                    f"{item.slot}, which has seen {len(before)} tokens"
                )
            states[item.slot] = (*before, *item.tokens)


class _Block:
    """The tokens of a block, and the entry of the table that it was written through."""

    def __init__(self, size: int, entry: int = UNUSED) -> None:
        self.entry = entry
        self.tokens: list[int | None] = [None] * size

    def copy(self) -> _Block:
        other = _Block(0, self.entry)
        other.tokens = list(self.tokens)
        return other


def save_trace(path: Path, groups: Seq[GroupSize], block_size: int, steps: Iterable[Step]) -> None:
    """Write a trace: a line with the sizes of the cache, then one line per step."""
    with path.open("w") as file:
        file.write(json.dumps({"groups": list(groups), "block_size": block_size}) + "\n")
        file.writelines(step.to_json() + "\n" for step in steps)


def replay(path: Path, show: Callable[[str], None] = lambda line: None) -> int:
    """Run a saved trace again and check it: every item must see its own tokens, all written.

    Args:
        path: a file made by `save_trace`.
        show: receives each step as text.

    Returns: the number of steps.

    Raises:
        ValueError: the trace reads what was freed or never written, or another sequence's tokens.
    """
    with path.open() as file:
        sizes = json.loads(file.readline())
        groups = [GroupSize(*group) for group in sizes["groups"]]
        cache = FakeCache(groups, sizes["block_size"], lambda context, index: 0)
        known: dict[int, dict[int, int]] = {}  # by sequence and position
        count = 0
        for line in file:
            count += 1
            step = Step.from_json(line)
            show(str(step))
            cache.run(step)
            for item in step.items:
                context, before = cache.context(item), known.setdefault(item.sequence, {})
                certain = context[: len(context) - item.verify]  # drafts may come to nothing
                for at, token in enumerate(certain, item.end - len(context)):
                    if before.setdefault(at, token) != token:
                        raise ValueError(
                            f"step {step.number}: #{item.sequence} sees other tokens than before"
                        )
        return count
