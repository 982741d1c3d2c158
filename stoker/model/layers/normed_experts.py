"""The network of a `NormedExpertsSpec`: experts beside a dense network, with norms around each."""

from __future__ import annotations

from torch import Tensor

from stoker.model.layers.experts import Experts
from stoker.model.norms import make_norm
from stoker.model.spec.experts import NormedExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext


class NormedExperts(Experts):
    """norm(shared(x)) + norm(the sum of a token's experts), which read the residual.

    The router reads it too, at a root mean square of 1 / sqrt(hidden) but for learned factors.
    """

    def __init__(self, spec: NormedExpertsSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        shape = (model.hidden,)
        self.router_norm = make_norm(shape, model.norm)
        self.router_scale = model.hidden**-0.5
        self.expert_norm = make_norm(shape, model.norm)
        self.expert_post_norm = make_norm(shape, model.norm)
        self.shared_post_norm = make_norm(shape, model.norm)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        assert self._run is not None, "prepare() comes first"
        assert self.shared is not None
        ops = step.ops
        routes = self.router(self.router_norm(residual, ops) * self.router_scale)
        y = self.expert_post_norm(self._run(self.expert_norm(residual, ops), routes), ops)
        y = y + self.shared_post_norm(self.shared(x, step, None), ops)
        return self.added(y, residual, ops)
