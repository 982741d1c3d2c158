"""The settings of an engine: what was asked for, and what that came to on this machine.

`EngineOptions` are checked when they are made and know no model or device; what they leave open
("auto", None) is resolved once, at load, into an `EnginePlan`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from stoker.errors import ConfigError, suggest

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("auto", "int8", "llm_int8", "fp8")
ARITHMETIC = {"int8": "float32", "fp8": "bfloat16"}  # of a quantization that has just one
SHORT_FORMS = ("int8", "fp8")  # values of dtype that mean a quantization
POLICIES = ("fcfs", "prefix")
KV_DTYPES = ("auto", "fp8")
ATTENTION_BACKENDS = ("auto", "native", "torch", "varlen", "triton", "reference")


SECTIONS = {  # of the options and of the plan
    "model": ("dtype", "quantization", "expert_mask", "active_experts"),
    "device": ("device", "threads", "attention_backend", "overlap", "cuda_graphs"),
    "cache": (
        "kv_dtype",
        "block_size",
        "num_blocks",
        "cache_memory",
        "gpu_memory",
        "prefix_cache",
    ),
    "batching": ("max_batch_tokens", "step_time", "max_running", "max_context", "policy"),
    "draws": ("seed",),
}


@dataclass(frozen=True)
class EngineOptions:
    """What is asked of an engine: the keyword arguments of `LLM`.

    Model:
        dtype: of the arithmetic; "auto" is float32 on a CPU, else the checkpoint's. "int8" and
            "fp8" are short for that quantization.
        quantization: how weights are stored; "auto" leaves them as the checkpoint has them.
            "int8" (CPU only) quantises weights at load and activations as they come; what lies
            between the projections, keys and values included, stays float32. "fp8" (GPUs of
            compute capability 8.9 or more) does so for large projections; the rest, the head
            included, is bfloat16. "llm_int8" is int8 with the columns of outliers kept as they
            are, on a CPU or a GPU; the head is not quantised.
        expert_mask: a file of the experts that are loaded of a mixture, as `stoker experts --keep`
            writes it; the others take no memory, and no token goes there.
        active_experts: how many experts a token takes: a number for each layer that has some, or
            their average, which is divided over the layers by what their weights bear. None
            leaves the model's own.

    Device:
        device: torch device the model runs on, "cpu" or "cuda".
        threads: of a CPU's arithmetic; it is a setting of the whole process, and the engine made
            last decides. None takes one for each physical core that this process may use
            (`engine/setup/threads.py`). With a GPU, None leaves PyTorch's number.
        attention_backend: the implementation of attention; "auto" takes the fastest here. On a
            CPU "native" (C, float32) and "torch", on a GPU "triton" and "varlen" (torch's
            own, where its kernels read pages); "reference" anywhere.
        overlap: plan a step while the one before it is computed; results are the same. "auto" does
            so on a GPU, where the host would otherwise be waited for, and not on a CPU, where both
            would share its cores.
        cuda_graphs: launch whole steps at once on a GPU, captured when their size is first met;
            "auto" does so where the attention allows it.

    Cache:
        kv_dtype: of cached keys and values; "auto" is the dtype of the arithmetic. "fp8" (e4m3)
            holds twice as many tokens and changes results a little: an element by at most 1/16.
            Each head has a scale, found at load.
        block_size: tokens per cache block.
        num_blocks: cache blocks; None sizes the pool by `cache_memory` or `gpu_memory`. Layers with
            a window have blocks of their own, fewer or as many (engine/setup/cache_sizes.py).
        cache_memory: bytes for keys and values; None takes a quarter of the free memory on a CPU,
            and never more than `max_running` sequences of full context could use.
        gpu_memory: the share of a GPU's memory that may be in use, by anyone; what the model
            leaves of it holds keys and values, up to what `max_running` sequences of full context
            could use. None is 0.9. A CPU has `cache_memory` for that.
        prefix_cache: reuse blocks of equal prefixes across requests. "auto" does wherever it can:
            where layers keep states, it takes memory for a snapshot.

    Batching:
        max_batch_tokens: the token budget of a step, prefill chunks and decodes together; None
            takes 512 on a CPU, whose caches hold the activations of so many, else 2048.
        max_running: most sequences that hold cache blocks at once. None takes 256 or, where layers
            keep states, as many as have theirs in half of the cache's memory.
        max_context: most tokens of prompt and completion; None takes the model's own.
        step_time: milliseconds that a step is to take if a prompt is part of it, so that the
            others' tokens keep coming while a long prompt is read; its chunks are then as large
            as that allows, up to `max_batch_tokens`. None: as large as `max_batch_tokens`.
        policy: the order of waiting requests: "fcfs", by arrival, or "prefix", in which those that
            share a prefix follow one another and the cache keeps what waiting ones will use.

    Draws:
        seed: where requests without a seed of their own derive theirs from.

    Raises:
        ConfigError: a value is out of range, naming the field, the value and what would do.
    """

    # model
    dtype: str = "auto"
    quantization: str = "auto"
    expert_mask: str | None = None
    active_experts: float | tuple[int, ...] | None = None
    # device
    device: str = "cpu"
    threads: int | None = None
    attention_backend: str = "auto"
    overlap: bool | str = "auto"
    cuda_graphs: bool | str = "auto"
    # cache
    kv_dtype: str = "auto"
    block_size: int = 16
    num_blocks: int | None = None
    cache_memory: int | None = None
    gpu_memory: float | None = None
    prefix_cache: bool | str = "auto"
    # batching
    max_batch_tokens: int | None = None
    step_time: float | None = None
    max_running: int | None = None
    max_context: int | None = None
    policy: str = "fcfs"
    # draws
    seed: int = 0

    def __post_init__(self) -> None:
        dtype, quantization = resolve_dtype(self.dtype, self.quantization)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "quantization", quantization)
        object.__setattr__(self, "device", str(self.device))  # a torch.device too
        self._at_least_one("block_size", self.block_size)
        for name in (
            "max_batch_tokens",
            "num_blocks",
            "cache_memory",
            "max_running",
            "max_context",
            "threads",
        ):
            if getattr(self, name) is not None:
                self._at_least_one(name, getattr(self, name))
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ConfigError(f"seed must be a whole number, not {self.seed!r}")
        for name, known in (
            ("kv_dtype", KV_DTYPES),
            ("attention_backend", ATTENTION_BACKENDS),
            ("policy", POLICIES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name}={value!r} is not known; {suggest(str(value), [*known])}")
        for name in ("overlap", "cuda_graphs", "prefix_cache"):
            if getattr(self, name) not in (True, False, "auto"):
                found = getattr(self, name)
                raise ConfigError(f"{name} must be True, False or 'auto', not {found!r}")
        if self.cuda_graphs is True and not self.device.startswith("cuda"):
            raise ConfigError(f"cuda_graphs=True needs device='cuda', not {self.device!r}")
        if self.expert_mask is not None:
            object.__setattr__(self, "expert_mask", str(self.expert_mask))  # a Path too
        if self.active_experts is not None:
            self._check_active_experts(self.active_experts)
        if self.step_time is not None:
            self._check_step_time(self.step_time)
        sizes = ("num_blocks", "cache_memory", "gpu_memory")
        given = [name for name in sizes if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"give {given[0]} or {given[1]}, not both: each sizes the cache")
        if self.gpu_memory is not None:
            self._check_gpu_memory(self.gpu_memory)

    def _check_active_experts(self, value: Any) -> None:
        if isinstance(value, list | tuple):
            object.__setattr__(self, "active_experts", tuple(value))
            good = value and all(type(one) is int and one >= 1 for one in value)
        else:
            good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
        if not good:
            raise ConfigError(
                "active_experts must be a number of at least 1, or a whole number for each layer "
                f"with experts, not {value!r}"
            )

    @staticmethod
    def _check_step_time(value: Any) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise ConfigError(f"step_time must be a number of milliseconds above 0, not {value!r}")

    def _check_gpu_memory(self, share: Any) -> None:
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise ConfigError(f"gpu_memory must lie in (0, 1], a share, not {share!r}")
        if not self.device.startswith("cuda"):
            raise ConfigError(
                f"gpu_memory={share} needs device='cuda', not {self.device!r}; "
                "cache_memory sizes the cache of a CPU"
            )

    @staticmethod
    def _at_least_one(name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")

    @classmethod
    def from_options(cls, **options: Any) -> EngineOptions:
        """Build from keyword options, refusing unknown names with the nearest known one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}; {suggest(name, known)}")
        return cls(**options)


@dataclass(frozen=True)
class EnginePlan:
    """What an engine does on this machine: its options with nothing left open.

    `print(llm.plan)` shows it; a job keeps it in job.json. The names are those of `EngineOptions`.

    Attributes:
        quantization: "none" if weights are stored as numbers of `dtype`.
        cache_memory: bytes of all blocks and states.
        state_bytes: what layers with states keep of a sequence, however long; 0 if there are none.
        num_snapshots: copies of such states that can be kept for reuse.
        expert_mask: the file, or "none".
        active_experts: of each layer that has experts, as the model has them or fewer.
        step_time: 0 if there is no limit.
    """

    dtype: str
    quantization: str
    expert_mask: str
    active_experts: tuple[int, ...]
    device: str
    threads: int
    attention_backend: str
    overlap: bool
    cuda_graphs: bool
    kv_dtype: str
    block_size: int
    num_blocks: int
    cache_memory: int
    prefix_cache: bool
    max_batch_tokens: int
    step_time: float
    max_running: int
    max_context: int
    policy: str
    seed: int
    state_bytes: int = 0
    num_snapshots: int = 0

    def described(self) -> dict[str, Any]:
        """Return the plan as plain data, as JSON gives it back."""
        return {**dataclasses.asdict(self), "active_experts": [*self.active_experts]}

    def __str__(self) -> str:
        told = self.described()
        lines = []
        for section, names in SECTIONS.items():
            lines.append(section)
            lines += [f"  {name:<18}{told[name]}" for name in names if name in told]
            if section == "cache" and self.state_bytes:
                lines += [f"  {name:<18}{told[name]}" for name in ("state_bytes", "num_snapshots")]
        return "\n".join(lines)


def resolve_dtype(dtype: str, quantization: str) -> tuple[str, str]:
    """`dtype` and `quantization` with short forms spelt out.

    ("int8", "auto"), ("auto", "int8") and ("float32", "int8") all give ("float32", "int8").

    Raises:
        ConfigError: one of them is unknown, or they contradict each other.
    """
    known = {
        "dtype": (dtype, (*DTYPES, *SHORT_FORMS)),
        "quantization": (quantization, QUANTIZATIONS),
    }
    for name, (value, values) in known.items():
        if value not in values:
            raise ConfigError(f"{name}={value!r} is not known; {suggest(str(value), [*values])}")
    if dtype in SHORT_FORMS:
        if quantization not in ("auto", dtype):
            raise ConfigError(
                f"dtype={dtype!r} is short for quantization={dtype!r} and contradicts "
                f"quantization={quantization!r}; give one of the two"
            )
        dtype, quantization = "auto", dtype
    needed = ARITHMETIC.get(quantization, dtype)
    if dtype not in ("auto", needed):
        raise ConfigError(
            f"quantization={quantization!r} computes in {needed}, not in dtype={dtype!r}; "
            "leave dtype out"
        )
    return needed, quantization
