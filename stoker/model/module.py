"""Modules that cost no more to call than their `forward`.

Of torch's modules only the keeping of weights is wanted. Their calls look for hooks, and their
attributes are found in tables after a failed look-up: on a CPU a third of the time between the
kernels of a decode step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Module(nn.Module):
    """A module without hooks.

    Attributes:
        float32: its own parameters that stay in float32 whatever the model computes in.
    """

    float32: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__call__ = cls.forward  # type: ignore[method-assign]

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make the tensors that are no weights, beside the weights, once those are loaded."""

    def freeze_attributes(self) -> None:
        """Make weights and parts plain attributes too, once they are no longer replaced."""
        for module in self.modules():
            vars(module).update(module._modules)
            vars(module).update(module._parameters)
