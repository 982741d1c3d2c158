"""Runs a step on the device: copies, forward pass, draws.

Owns the model and the cache tensors; knows no queue and no text. Driven by the engine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.engine.batch import build_batch
from stoker.engine.sampler import SamplingBatch, sample
from stoker.engine.sampling.logprobs import score_prompts
from stoker.engine.states import final_states, head_of
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

    @torch.inference_mode()
    def run(self, step: Step, draws: SamplingBatch) -> list[list[int]]:
        """The drawn tokens of each item of `step`; `draws` has one entry per draw, in order.

        Log-probabilities, and errors of single rows, are left with `draws`.

        Raises:
            ModelError: the logits are not finite; the message names the layer at fault.
        """
        logits = self.forward(step, draws) if draws.scores else self.forward(step)
        counts = [len(item.draws) for item in step.items if item.draws]
        if any(count > 1 for count in counts):
            logits = logits.repeat_interleave(torch.tensor(counts, device=self.device), dim=0)
        tokens = iter(sample(logits, draws) if len(draws) else [])
        return [[next(tokens) for _ in item.draws] for item in step.items]

    @torch.inference_mode()
    def forward(self, step: Step, draws: SamplingBatch | None = None) -> Tensor:
        """Logits (R, V), a row for each item of `step` that draws; scores prompts of `draws`."""
        self.cache.copy_blocks(step.copies)
        assert self.model.ops is not None, "the model must be prepared"
        batch = build_batch(step, self.cache.block_size, self.model.ops.attention, self.device)
        if draws is not None and draws.scores:
            return self._score(batch, draws)
        logits: Tensor = self.model(batch, self.cache)
        self._check(batch, logits)
        return logits

    def _score(self, batch: ForwardInput, draws: SamplingBatch) -> Tensor:
        """Logits of the drawing rows; those that score prompts come after them in `batch`."""
        states, head = final_states(self.model, batch, self.cache), head_of(self.model)
        self._check(batch, states)

        def checked(part: Tensor) -> Tensor:
            logits = head(part)
            self._check(batch, logits)
            return logits

        drawn = len(states) - sum(len(one.targets) for one in draws.scores)
        score_prompts(states[drawn:], checked, draws.scores, self.model.spec.vocab)
        return checked(states[:drawn])

    def _check(self, batch: ForwardInput, values: Tensor) -> None:
        """Raise a `ModelError` if the logits, or final states, are not finite."""
        if not torch.isfinite(values.sum()):
            try:
                self._explain(batch, values)
            except ModelError:
                self.cache.clear()  # later requests must not read what this one wrote
                raise

    def _explain(self, batch: ForwardInput, logits: Tensor) -> None:
        """Raise if the logits hold NaN or infinity, naming the weight or the layer."""
        if torch.isfinite(logits).all():
            return  # only their sum left the range
        weight = first_bad_weight(self.model)
        if weight:
            raise ModelError(
                f"the weights {weight} hold NaN or infinity; the checkpoint is damaged, or was "
                "saved by a training run that diverged"
            )
        bad: list[str] = []

        def watch(name: str, x: Tensor) -> None:
            if not torch.isfinite(x).all():
                bad.append(name)

        self.model(batch, self.cache, watch)
        raise ModelError(
            f"the output of {bad[0] if bad else 'the head'} is not finite though its weights are: "
            "the values leave the range of the dtype; try dtype float32"
        )
