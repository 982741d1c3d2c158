"""llama.cpp through the low-level calls of llama-cpp-python, with continuous batching.

Up to 32 sequences run; each call decodes a token of each and the prompts of those that take the
places of finished ones. A common prefix is computed once and its cache shared with all. Tokens
are the largest logits, found by numpy for all rows at once. Weights are float32 or, with `q8`,
Q8_0, which llama.cpp multiplies by activations in 8 bits; the cache is float32.
"""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import itertools
from pathlib import Path
from typing import Any

from workloads import WORK, Outputs, Run, Workload

RUNNING = 32  # faster than 64 or 16, as are 128 tokens at once than 64 or 512
BATCH = 2048  # tokens in a call
LONGEST = 512  # tokens of a request after the shared prefix
FLOAT32 = 0  # ggml's number of the type


def make(folder: Path, threads: int, work: str, q8: bool = False, **options: Any) -> Run:
    from gguf_model import write_gguf

    converted = folder / ("model-q8_0.gguf" if q8 else "model.gguf")
    if not converted.exists():
        write_gguf(folder, converted, q8)
    return LlamaCpp(converted, threads, WORK[work].shared, **options)


@dataclasses.dataclass
class _Running:
    """A sequence in its slot: the token to be computed next, and its position."""

    request: int
    slot: int
    token: int
    position: int


class _Batch:
    """The arrays of a call, filled from lists."""

    def __init__(self, size: int) -> None:
        import llama_cpp
        import numpy as np

        kinds = {"token": "int32", "pos": "int32", "n_seq_id": "int32", "logits": "int8"}
        self._arrays = {name: np.ones(size, kind) for name, kind in kinds.items()}
        self._slots = np.zeros(size, np.int32)
        self._addresses = self._slots.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        self.raw = llama_cpp.llama_batch()
        fields = dict(llama_cpp.llama_batch._fields_)
        for name, array in (*self._arrays.items(), ("seq_id", self._addresses)):
            setattr(self.raw, name, ctypes.cast(array.ctypes.data, fields[name]))

    def fill(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Entries are (token, position, slot, whether its logits are wanted)."""
        count = self.raw.n_tokens = len(entries)
        tokens, positions, slots, wanted = zip(*entries, strict=True)
        self._arrays["token"][:count] = tokens
        self._arrays["pos"][:count] = positions
        self._arrays["logits"][:count] = wanted
        self._slots[:count] = slots


class LlamaCpp:
    """A model and a context, which run workloads."""

    def __init__(
        self,
        model: Path,
        threads: int,
        shared: int,
        unified: bool = True,
        flash: bool = True,
        micro: int = 128,
    ) -> None:
        import llama_cpp

        self._api = llama_cpp
        self._shared = shared
        self._slots = RUNNING + (1 if shared else 0)  # the last one holds the prefix
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(model).encode(), llama_cpp.llama_model_default_params()
        )
        assert self._model, "llama.cpp can't load the model"
        settings = llama_cpp.llama_context_default_params()
        settings.n_seq_max = self._slots
        settings.n_ctx = self._slots * (LONGEST + shared)
        settings.n_batch, settings.n_ubatch = BATCH, micro
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = FLOAT32
        settings.kv_unified = unified
        settings.flash_attn_type = int(flash)
        settings.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        assert self._context, "llama.cpp can't make the context"
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = _Batch(BATCH)

    def __call__(self, load: Workload) -> Outputs:
        """The greedy tokens of each request."""
        self._api.llama_memory_clear(self._memory, False)
        if self._shared:
            prefix = load[0][0][: self._shared]
            slots = itertools.repeat(RUNNING)
            self._decode([*zip(prefix, itertools.count(), slots, [False] * len(prefix))])
        outputs: list[list[int]] = [[] for _ in load]
        waiting = collections.deque(range(len(load)))
        free = [*range(RUNNING)]
        running: list[_Running] = []
        while waiting or running:
            entries = [(one.token, one.position, one.slot, True) for one in running]
            while waiting and free:
                prompt = load[waiting[0]][0]
                if len(entries) + len(prompt) - self._shared > BATCH:
                    break
                slot = free.pop()
                running.append(_Running(waiting.popleft(), slot, -1, len(prompt) - 1))
                entries += self._admit(slot, prompt)
            going = []
            for one, token in zip(running, self._decode(entries), strict=True):
                one.token, one.position = token, one.position + 1
                outputs[one.request].append(token)
                if len(outputs[one.request]) < load[one.request][1]:
                    going.append(one)
                    continue
                self._api.llama_memory_seq_rm(self._memory, one.slot, -1, -1)
                free.append(one.slot)
            running = going
        return outputs

    def _admit(self, slot: int, prompt: list[int]) -> list[tuple[int, int, int, bool]]:
        """The entries of a prompt that begins in `slot`, which gets the prefix's cache."""
        if self._shared:
            self._api.llama_memory_seq_cp(self._memory, RUNNING, slot, -1, -1)
        last = len(prompt) - 1
        return [(prompt[at], at, slot, at == last) for at in range(self._shared, len(prompt))]

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute the entries; the likeliest tokens of those whose logits are wanted."""
        import numpy as np

        self._batch.fill(entries)
        code = self._api.llama_decode(self._context, self._batch.raw)
        assert code == 0, f"llama_decode returned {code}"
        wanted = sum(entry[3] for entry in entries)
        if not wanted:
            return []
        address = self._api.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(address, shape=(wanted, self._vocab))
        tokens: list[int] = logits.argmax(axis=1).tolist()
        return tokens
