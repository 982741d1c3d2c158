"""Runs a step on the device: copies, forward pass, draws.

Owns the model and the cache tensors; knows no queue and no text. Driven by the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from stoker.engine.execution.device_draws import DeviceDraws
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.graphs import Graphs
from stoker.engine.execution.pending_step import CompletedStep, PendingStep
from stoker.engine.execution.pooler import PoolState, gather
from stoker.engine.execution.step_tensors import to_arrays, to_tensors
from stoker.engine.execution.step_vectors import StepVectors
from stoker.engine.sampling.logprobs import score_prompts
from stoker.engine.sampling.sampler import SamplingBatch, sample
from stoker.engine.scheduling.step import LAST_TOKEN, Step
from stoker.errors import ModelError
from stoker.model.cache import PagedCache
from stoker.model.loader import first_bad_weight
from stoker.model.step import StepTensors
from stoker.model.transformer import Transformer
from stoker.ops.upload import upload

MakeBatch = Callable[[], StepTensors]


class ModelRunner:
    """A prepared model over its paged cache.

    Tokens are drawn on the device, without waiting for them, if `draws_there`, which is None for
    wherever the device is not the host. `graphs` run the steps that they serve, with the same
    `slots`.
    """

    def __init__(
        self,
        model: Transformer,
        cache: PagedCache,
        slots: DeviceSlots,
        draws_there: bool | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.slots = slots
        self.device = slots.device
        self.graphs = graphs
        # draw on the device and let the host go on, or else here
        self.draws_there = self.device.type != "cpu" if draws_there is None else draws_there
        self._known: tuple[Step, list[int]] | None = None  # the last step waited for, its draws

    @torch.inference_mode()
    def launch(
        self,
        step: Step,
        draws: SamplingBatch,
        pools: Seq[PoolState] = (),
        vectors: StepVectors | None = None,
    ) -> PendingStep:
        """Compute `step`, or see it on its way; see `Runner`.

        Errors of single rows are left with `draws`.

        Raises:
            ModelError: the logits are not finite; the message names the layer at fault. Where
                tokens are drawn on the device, it is the handle that raises.
        """
        torch.get_num_threads()  # OpenMP counts per calling thread; asking sets a new one's count
        # what controls are told of a step is not to come before they were asked about the last one
        ahead = bool(draws.controls) and any(item.tokens[-1] == LAST_TOKEN for item in step.items)
        later = ahead or (self.draws_there and len(draws) > 0)
        logits = self.forward(step, draws, pools, vectors, check=not later)
        counts = [len(item.draws) + item.verify for item in step.items if item.draws]
        several = max(counts, default=0) > 1
        if several:
            counts_by_row = [n for item in step.items if item.draws for n in item.draws_by_row]
            logits = logits.repeat_interleave(
                torch.tensor(counts_by_row, device=self.device), dim=0
            )
        assert self.model.ops is not None
        draw, params = self.model.ops.draw, self.slots.draw_params(self.model.spec.vocab)
        if later:
            keep = partial(self._keep, counts)
            arrived = partial(self._arrived, step, vectors)
            pending = DeviceDraws(logits, draws, params, draw, keep, arrived)
            if not (ahead and draws.reads_tokens):
                pending.draw()
            return pending
        drawn = sample(logits, draws, params, draw) if counts else []
        self.slots.keep([drawn[first] for first in _firsts(counts)] if several else drawn)
        return CompletedStep(drawn)

    def _keep(self, counts: list[int], tokens: Tensor) -> None:
        """Let the slots keep a step's tokens; `counts` says how many each item draws."""
        several = max(counts) > 1
        self.slots.keep(tokens[_firsts(counts)] if several else tokens)

    @torch.inference_mode()
    def forward(
        self,
        step: Step,
        draws: SamplingBatch,
        pools: Seq[PoolState] = (),
        vectors: StepVectors | None = None,
        check: bool = True,
    ) -> Tensor:
        """Logits (R, V), a row for each item of `step` that draws.

        `pools` and the scores of `draws` take what they want of the other states; `vectors` are
        those among the tokens. `check` looks whether the logits are finite, which waits for the
        device.
        """
        scores = draws.scores
        if step.copies:
            self._copy(step.copies)
        arrays = to_arrays(step, self.slots, vectors, draws.settings)
        states = None
        if self.graphs is not None and not pools and not scores and vectors is None:
            states = self.graphs.run(arrays)
        assert self.model.ops is not None, "the model must be prepared"
        batch = partial(to_tensors, arrays, self.slots, self.model.ops)
        if states is None:
            states = self.model.hidden(batch(), self.cache)
        if step.saves:
            self._copy(step.saves)
        drawn = step.num_logits
        pooled = drawn + sum(item.states[1] - item.states[0] for item in step.items)
        # the states are those that are drawn from, then the pooled ones, then the scored ones
        logits = self.model.logits(states[:drawn]) if drawn else states[:0]
        if check and drawn:
            self._check(batch, logits)
        if drawn < len(states):
            self._check(batch, states[drawn:])
        if pools:
            gather(step, states[drawn:pooled], pools, self._label_values)
        if scores:
            head = partial(self._checked_logits, batch)
            score_prompts(states[pooled:], head, scores, self.model.spec.vocab)
        return logits

    def _copy(self, copies: Seq[tuple[int, int, int]]) -> None:
        """Make copies in the cache, of (cache group, from, to)."""
        groups, *pair = np.array(copies, np.int64).T
        for group in set(groups.tolist()):
            of_group = [np.ascontiguousarray(blocks[groups == group]) for blocks in pair]
            self.cache.copy_blocks(group, *upload(of_group, self.device))

    @torch.inference_mode()
    def _arrived(self, step: Step, vectors: StepVectors | None, tokens: list[int]) -> None:
        """Take note of the draws of `step`, in which ~token tells of a row that is not finite.

        Raises:
            ModelError: there is one. The step is computed again to find out where it began, which
                may fail if the step after it has written over what it read.
        """
        if min(tokens) < 0:
            if self._known is not None:  # the slots may hold what a later step has drawn
                before, drawn = self._known
                step = step.resolved(before.last_tokens(drawn))
            assert self.model.ops is not None
            arrays = to_arrays(step, self.slots, vectors)
            batch = to_tensors(arrays, self.slots, self.model.ops)
            states = self.model.hidden(batch, self.cache)
            logits = self.model.logits(states[: step.num_logits])
            self._check(lambda: batch, logits)
            self.cache.clear()
            raise ModelError("logits were not finite; try dtype float32")
        self._known = step, tokens

    def _checked_logits(self, batch: MakeBatch, states: Tensor) -> Tensor:
        """Logits (rows, V) of some of the step's states."""
        logits = self.model.logits(states)
        self._check(batch, logits)
        return logits

    def _check(self, batch: MakeBatch, values: Tensor) -> None:
        """Raise a `ModelError` if logits or states are not finite; `batch` makes their step's."""
        if not torch.isfinite(values.sum()):
            try:
                self._explain(batch(), values)
            except ModelError:
                self.cache.clear()  # later requests must not read what this one wrote
                raise

    def _label_values(self, states: Tensor) -> Tensor:
        """The classification head's output (P, labels) for states (P, D)."""
        values = self.model.logits(states)
        if not torch.isfinite(values).all():
            self._blame_weights()
            raise ModelError(
                "the output of the classification head is not finite though its weights are; "
                "try dtype float32"
            )
        return values

    def _explain(self, batch: StepTensors, logits: Tensor) -> None:
        """Raise if the logits (or states) hold NaN or infinity, naming the weight or the layer."""
        if torch.isfinite(logits).all():
            return  # only their sum left the range
        self._blame_weights()
        bad: list[str] = []

        def watch(name: str, x: Tensor) -> None:
            if not torch.isfinite(x).all():
                bad.append(name)

        self.model.hidden(batch, self.cache, watch)
        raise ModelError(
            f"the output of {bad[0] if bad else 'the head'} is not finite though its weights are: "
            "the values leave the range of the dtype; try dtype float32"
        )

    def _blame_weights(self) -> None:
        """Raise ModelError if a weight holds NaN or infinity, naming the first."""
        weight = first_bad_weight(self.model)
        if weight:
            raise ModelError(
                f"the weights {weight} hold NaN or infinity; the checkpoint is damaged, or was "
                "saved by a training run that diverged"
            )


def _firsts(counts: list[int]) -> list[int]:
    """Which draws are those of the sequences in the slots, not of further samples or drafts.

    [0, 3, 4] for items with 3, 1 and 1 draws.
    """
    return [0, *accumulate(counts[:-1])]
