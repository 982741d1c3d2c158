"""The mixture of experts of a training model: a router, small MLPs, and one that all tokens pass.

Knows one layer only. Parameters are named as in GLM-4.5, DeepSeek V3 and their like.
"""

from __future__ import annotations

import torch
from parts import MLP, Shape
from torch import Tensor, nn

CORRECTION = 0.003  # of the bias of an expert, a step


class Router(nn.Module):
    """Scores of the experts, and the correction of each that keeps their loads alike."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape.experts, shape.hidden))
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.experts))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return torch.sigmoid(x.float() @ self.weight.mT)


class Experts(nn.Module):
    """Sigmoid scores; the best `active` after correction, with weights that sum to one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.active = shape.active
        self.gate = Router(shape)
        self.experts = nn.ModuleList(
            MLP(shape.hidden, shape.expert_ffn) for _ in range(shape.experts)
        )
        self.shared_experts = MLP(shape.hidden, shape.ffn)
        self.loads = torch.zeros(shape.experts)  # rows that each expert got in the last call

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        scores = self.gate(tokens)
        chosen = (scores + self.gate.e_score_correction_bias).topk(self.active).indices
        weights = scores.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True)

        # Rows of (token, choice) sorted by expert: tokens 0 and 1 that chose experts (2, 0) and
        # (0, 1) give order 1, 2, 3, 0, which is tokens 0, 1, 1, 0 for experts 0, 0, 1, 2.
        order = chosen.flatten().argsort(stable=True)
        token = order // self.active
        self.loads = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        pieces = tokens[token].split(self.loads.tolist())
        outputs = torch.cat(
            [expert(piece) for expert, piece in zip(self.experts, pieces, strict=True)]
        )
        outputs = outputs * weights.flatten()[order, None].to(outputs.dtype)
        mixed = torch.zeros_like(outputs[: len(tokens)]).index_add(0, token, outputs)
        return (mixed + self.shared_experts(tokens)).view_as(x)

    def balance(self) -> None:
        """Make experts that got less than their share likelier, and the others less so.

        Balancing without a loss (Wang et al., Auxiliary-Loss-Free Load Balancing, 2024).
        """
        loads = self.loads.float()
        self.gate.e_score_correction_bias += CORRECTION * (loads.mean() - loads).sign()
