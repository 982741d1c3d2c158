"""How the tokens of a run were spread over the experts of each layer: counts, a mask, a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from stoker.engine.setup.experts import mixtures
from stoker.errors import ConfigError
from stoker.model.layers.block import Block
from stoker.model.layers.experts import Experts
from stoker.model.transformer import Transformer
from stoker.ops.routing import Routes

WIDTH, HEIGHT, LEFT, TOP = 720, 14, 70, 46  # of the picture's cells, and around them


@dataclass
class LayerLoad:
    """What went to the experts of one layer.

    Attributes:
        layer: its index in the model.
        active: experts that a token takes.
        stored: those that have weights, the first; there may be others behind them.
        tokens: (E,) int64, that each expert was given.
        weights: (E,) float64, the sum of their weights.
    """

    layer: int
    active: int
    stored: int
    tokens: torch.Tensor
    weights: torch.Tensor

    def add(self, routes: Routes) -> None:
        """Count the routes of one call."""
        chosen, count = routes.experts.flatten(), len(self.tokens)
        self.tokens += torch.bincount(chosen, minlength=count).cpu()
        weights = routes.weights.flatten().double()
        self.weights += torch.bincount(chosen, weights, minlength=count).cpu()

    def heaviest(self, share: float) -> list[int]:
        """The experts with the largest sums of weights: a share of all, rounded up, in order.

        Of those that have weights; there are enough for a token.
        """
        count = max(self.active, math.ceil(share * self.stored))
        weights = self.weights[: self.stored]
        return sorted(weights.topk(min(count, self.stored)).indices.tolist())

    def described(self) -> dict[str, Any]:
        """As plain data."""
        means = self.weights / self.tokens.clamp(min=1)
        return {
            "layer": self.layer,
            "experts": len(self.tokens),
            "active": self.active,
            "tokens": self.tokens.tolist(),
            "mean_weight": [round(mean, 6) for mean in means.tolist()],
        }


def watch_experts(model: Transformer) -> list[LayerLoad]:
    """Count the tokens that go to each expert of the prepared `model` from now on.

    The last layer gets those tokens alone that something is drawn from.

    Raises:
        ConfigError: the model has no experts.
    """
    found = []
    for index, experts in mixtures(model.spec).items():
        block, routing = model.layers[index], experts.routing
        assert isinstance(block, Block)
        assert isinstance(block.ffn, Experts)
        load = LayerLoad(
            index,
            routing.active,
            experts.stored,
            torch.zeros(routing.experts, dtype=torch.int64),
            torch.zeros(routing.experts, dtype=torch.float64),
        )
        block.ffn.router.observe(load.add)
        found.append(load)
    if not found:
        raise ConfigError("this model has no experts; stoker experts is for mixtures of them")
    return found


def picture(loads: list[LayerLoad], title: str) -> str:
    """An SVG: a row for each layer, a cell for each expert, the darker the more tokens it got.

    A cell is white if the expert got none, and black from four times an equal share on.
    """
    height = TOP + HEIGHT * len(loads) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
        'font-family="sans-serif" font-size="10">',
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="13">{escape(title)}</text>',
        f'<text x="{LEFT}" y="36">experts of each layer, by the share of its tokens</text>',
    ]
    for row, load in enumerate(loads):
        top, total = TOP + row * HEIGHT, max(1, int(load.tokens.sum()))
        width = WIDTH / len(load.tokens)
        lines.append(f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{load.layer}</text>')
        for expert, tokens in enumerate(load.tokens.tolist()):
            share = tokens / total
            shade = round(255 * (1 - min(1.0, share * len(load.tokens) / 4)))
            lines.append(
                f'<rect x="{LEFT + expert * width:.2f}" y="{top}" width="{width:.2f}" '
                f'height="{HEIGHT - 1}" fill="rgb({shade},{shade},{shade})" stroke="#ccc" '
                f'stroke-width="0.3"><title>layer {load.layer}, expert {expert}: '
                f"{tokens:,} tokens, {share:.1%}</title></rect>"
            )
    foot = TOP + HEIGHT * len(loads) + 16
    lines.append(
        f'<text x="{LEFT}" y="{foot}">white: no tokens; black: four times an equal share, or '
        "more</text></svg>"
    )
    return "\n".join(lines) + "\n"
