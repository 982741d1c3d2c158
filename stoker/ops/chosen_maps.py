"""Linear maps of which each row takes one: the projections of experts that aren't whole networks.

On a CPU a loop over the experts that rows take, so that others aren't read. Elsewhere all rows go
through all experts, as a CUDA graph has the same shapes whatever is chosen, and nothing waits for
the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stoker.ops.linear import LinearFn


def chosen_maps(maps: Sequence[LinearFn], x: Tensor, chosen: Tensor) -> Tensor:
    """Each row of x (P, inputs) through the map whose number `chosen` (P,) has: (P, outputs).

    With three maps, rows 0 and 2 go together:

        chosen    2 0 2      y    maps[2](x[0])  maps[0](x[1])  maps[2](x[2])
    """
    return sorted_maps(maps, x, chosen) if x.device.type == "cpu" else all_maps(maps, x, chosen)


def sorted_maps(maps: Sequence[LinearFn], x: Tensor, chosen: Tensor) -> Tensor:
    """`chosen_maps` by rows sorted by map."""
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=len(maps)).tolist()
    parts = torch.split(x[order], counts)
    made = [one(part) for one, part in zip(maps, parts, strict=True) if len(part)]
    found = torch.cat(made or [maps[0](x)])  # with no rows in the second case
    y = torch.empty_like(found)
    y[order] = found
    return y


def all_maps(maps: Sequence[LinearFn], x: Tensor, chosen: Tensor) -> Tensor:
    """`chosen_maps` by all rows through all maps."""
    y = maps[0](x)
    for number, one in enumerate(maps[1:], 1):
        y = torch.where((chosen == number)[:, None], one(x), y)
    return y
