"""The mixture of experts of a training model: a router, small MLPs, and one that all tokens pass.

Knows one layer only. Parameters are named as in Qwen2-MoE.
"""

from __future__ import annotations

import torch
from parts import MLP, Shape
from torch import Tensor, nn


class Experts(nn.Module):
    """Softmax over all experts, the best `active` of them with weights that sum to one.

    `imbalance` is that of the last call (Fedus et al., Switch Transformer, 2021): one where all
    experts get the same share of the tokens, `experts` where one gets everything.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.active = shape.active
        self.gate = nn.Linear(shape.hidden, shape.experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(shape.hidden, shape.expert_ffn) for _ in range(shape.experts)
        )
        self.shared_expert = MLP(shape.hidden, shape.ffn)
        self.shared_expert_gate = nn.Linear(shape.hidden, 1, bias=False)
        self.imbalance = torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        with torch.autocast("cpu", enabled=False):
            scores = self.gate(tokens.float()).softmax(-1)
        weights, chosen = scores.topk(self.active)
        weights = weights / weights.sum(-1, keepdim=True)

        # Rows of (token, choice) sorted by expert: tokens 0 and 1 that chose experts (2, 0) and
        # (0, 1) give order 1, 2, 3, 0, which is tokens 0, 1, 1, 0 for experts 0, 0, 1, 2.
        order = chosen.flatten().argsort(stable=True)
        token = order // self.active
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        pieces = tokens[token].split(counts.tolist())
        outputs = torch.cat(
            [expert(piece) for expert, piece in zip(self.experts, pieces, strict=True)]
        )
        outputs = outputs * weights.flatten()[order, None].to(outputs.dtype)
        mixed = torch.zeros_like(outputs[: len(tokens)]).index_add(0, token, outputs)

        share = counts / counts.sum()
        self.imbalance = len(self.experts) * (share * scores.mean(0)).sum()
        shared = torch.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)
        return (mixed + shared).view_as(x)
