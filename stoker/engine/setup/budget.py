"""Where a GPU's memory goes, line by line: the arithmetic, and its table.

Knows numbers only, no torch; they are measured by device_memory.py. Called when an engine is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.engine.setup.cache_sizes import CacheSizes
from stoker.errors import ConfigError

GIB = 1 << 30


@dataclass(frozen=True)
class MemoryNeeds:
    """What must have room on a device, in bytes.

    Attributes:
        total: memory of the device.
        share: the part of `total` that may be in use, by whomever.
        others: held by other processes, other engines of this one, and by CUDA itself.
        weights: the model, with its tables.
        activations: what the largest step takes beside them.
        graphs: of CUDA graphs.
        cache: how the blocks of keys and values are shared out among groups of layers, and what
            they and the states of sequences take.
    """

    total: int
    share: float
    others: int
    weights: int
    activations: int
    graphs: int
    cache: CacheSizes

    @property
    def usable(self) -> int:
        return int(self.total * self.share)

    @property
    def left(self) -> int:
        """Bytes for keys, values and states; below 0 if the rest does not fit."""
        return self.usable - self.others - self.weights - self.activations - self.graphs


@dataclass(frozen=True)
class Budget:
    """A device's memory with `blocks` blocks of keys and values, as `CacheSizes` counts them."""

    needs: MemoryNeeds
    blocks: int

    def lines(self) -> list[tuple[str, int]]:
        """What each part takes, in bytes; together it is the whole memory of the device."""
        needs = self.needs
        cache = needs.cache
        tokens = self.blocks * cache.block_size
        states = [
            (f"states of {cache.max_running} sequences", cache.running_states),
            (f"{cache.num_snapshots(self.blocks)} snapshots", cache.snapshot_bytes(self.blocks)),
        ]
        return [
            ("weights", needs.weights),
            ("activations of the largest step", needs.activations),
            ("CUDA graphs", needs.graphs),
            (f"keys and values of {tokens:,} tokens", cache.page_bytes(self.blocks)),
            *(states if cache.state_bytes else ()),
            ("others, and CUDA itself", needs.others),
            ("not used", needs.left - cache.nbytes(self.blocks)),
            (f"kept free (gpu_memory {needs.share:g})", needs.total - needs.usable),
        ]

    def __str__(self) -> str:
        lines = [*self.lines(), ("memory of the GPU", self.needs.total)]
        return "\n".join(f"{name:40} {size / GIB:8.2f} GiB" for name, size in lines)


def blocks_that_fit(needs: MemoryNeeds, least: int, most: int, advice: str = "") -> Budget:
    """As many blocks as fit, up to `most`.

    Args:
        least: blocks without which the engine is of no use.
        advice: what else would make it fit, for the message.

    Raises:
        ConfigError: fewer than `least` fit; says by how much, and what would help.
    """
    blocks = min(needs.cache.most_in(needs.left), most)
    if blocks < least or needs.cache.nbytes(blocks) > needs.left:
        raise ConfigError(does_not_fit(needs, least, advice))
    return Budget(needs, blocks)


def does_not_fit(needs: MemoryNeeds, least: int, advice: str = "") -> str:
    """The message for a model that has no room for `least` blocks beside it."""
    missing = needs.cache.nbytes(least) - needs.left
    parts = [f"{name} {gib(size)}" for name, size in Budget(needs, least).lines()[:-2] if size]
    return (
        f"the model does not fit on the GPU: {gib(missing)} are missing. Of its "
        f"{gib(needs.total)}, gpu_memory={needs.share:g} may be used; there are "
        f"{', '.join(parts)}. What would do: "
        f"{', or '.join(suggestions(needs, missing, advice))}"
    )


def suggestions(needs: MemoryNeeds, missing: int, advice: str = "") -> list[str]:
    """The changes that would each make up for `missing` bytes by itself.

    Weights in fp8 take about half of what they take in bfloat16, embeddings aside; what a step
    takes goes with its tokens.
    """
    choices = [
        (advice, needs.weights * 2 // 5),
        ("a quarter of max_batch_tokens", needs.activations * 3 // 4),
        ("a quarter of max_running", needs.cache.running_states * 3 // 4),
        ("gpu_memory=0.97", int(needs.total * 0.97) - needs.usable),
        ("cuda_graphs=False", needs.graphs),
        (f"less held by others, which have {gib(needs.others)}", needs.others),
    ]
    enough = [name for name, gain in choices if name and gain >= missing]
    return [*enough, "a smaller model or a GPU with more memory"]


def gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
