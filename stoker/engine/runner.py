"""Runs a step on the device: copies, forward pass, draws.

Owns the model and the cache tensors; knows no queue and no text. Driven by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import partial

import torch
from torch import Tensor

from stoker.engine.batch import build_batch
from stoker.engine.launch import Done
from stoker.engine.pooler import PoolState, gather
from stoker.engine.sampler import SamplingBatch, sample
from stoker.engine.sampling.controls import ScoreRange
from stoker.engine.sampling.logprobs import score_prompts
from stoker.engine.step import Step
from stoker.errors import ModelError
from stoker.model.cache import PagedCache
from stoker.model.loader import first_bad_weight
from stoker.model.transformer import ForwardInput, Transformer


class ModelRunner:
    """A prepared model over its paged cache."""

    def __init__(self, model: Transformer, cache: PagedCache, device: torch.device) -> None:
        self.model = model
        self.cache = cache
        self.device = device
        self._drawn: list[int] = []  # in the last step

    @torch.inference_mode()
    def launch(self, step: Step, draws: SamplingBatch, pools: Seq[PoolState] = ()) -> Done:
        """Compute `step`; see `Runner`. Errors of single rows are left with `draws`.

        Raises:
            ModelError: the logits are not finite; the message names the layer at fault.
        """
        torch.get_num_threads()  # OpenMP counts per calling thread; asking sets a new one's count
        wants = pools or draws.scores
        logits = self.forward(step, pools, draws.scores) if wants else self.forward(step)
        counts = [len(item.draws) for item in step.items if item.draws]
        if any(count > 1 for count in counts):
            logits = logits.repeat_interleave(torch.tensor(counts, device=self.device), dim=0)
        tokens = sample(logits, draws) if len(draws) else []
        self._drawn = tokens
        return Done(tokens)

    @torch.inference_mode()
    def forward(
        self, step: Step, pools: Seq[PoolState] = (), scores: Seq[ScoreRange] = ()
    ) -> Tensor:
        """Logits (R, V), a row for each item of `step` that draws.

        `pools` and `scores` take what they want of the other states.
        """
        self.cache.copy_blocks(step.copies)
        step = step.resolved(self._drawn)
        assert self.model.ops is not None, "the model must be prepared"
        batch = build_batch(step, self.cache.block_size, self.model.ops.attention, self.device)
        states = self.model.hidden(batch, self.cache)
        drawn = sum(1 for item in step.items if item.draws)
        pooled = drawn + sum(item.states[1] - item.states[0] for item in step.items)
        # the states are those that are drawn from, then the pooled ones, then the scored ones
        logits = self._logits(batch, states[:drawn]) if drawn else states[:0]
        if drawn < len(states):
            self._check(batch, states[drawn:])
        if pools:
            gather(step, states[drawn:pooled], pools, self._label_values)
        if scores:
            vocab = self.model.spec.vocab
            score_prompts(states[pooled:], partial(self._logits, batch), scores, vocab)
        return logits

    def _logits(self, batch: ForwardInput, states: Tensor) -> Tensor:
        """Checked logits (rows, V) of some of the step's states."""
        logits = self.model.logits(states)
        self._check(batch, logits)
        return logits

    def _check(self, batch: ForwardInput, values: Tensor) -> None:
        """Raise a `ModelError` if logits or states are not finite."""
        if not torch.isfinite(values.sum()):
            try:
                self._explain(batch, values)
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

    def _explain(self, batch: ForwardInput, logits: Tensor) -> None:
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
