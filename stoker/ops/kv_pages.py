"""Keys or values of one layer, in pages: a tensor, or 8-bit floats with a scale for each head.

Cache layout (blocks, block_size, G, D). FP8 here is e4m3: 4 bits of exponent, 3 of mantissa, at
most 448 (Micikevicius et al., 2022). Rounding changes an element by at most 1/16 of itself, or by
2**-10 of its scale where it is small. Scales are fixed, so what is stored of a token depends on
nothing but the token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MOST = 448.0


@dataclass(frozen=True)
class Fp8Pages:
    """Quantised keys or values: element (b, t, g, d) is data[b, t, g, d] * scale[g].

    Attributes:
        data: (blocks, block_size, G, D) float8_e4m3fn.
        scale: (G,) float32, above 0.
    """

    data: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.data.shape


Pages = Tensor | Fp8Pages


def quantise(x: Tensor, scale: Tensor) -> Tensor:
    """x (..., G, D) / scale (G,) rounded to FP8; what lies beyond +-448 is clamped, not NaN."""
    return (x.float() / scale[:, None]).clamp(-FP8_MOST, FP8_MOST).to(FP8)


def store(pages: Pages, cells: Tensor, x: Tensor) -> None:
    """Write x (T, G, D) at `cells` (T,), block * block_size + offset."""
    if isinstance(pages, Fp8Pages):
        raw = quantise(x, pages.scale).view(torch.uint8)
        pages.data.view(torch.uint8).flatten(0, 1).index_copy_(0, cells, raw)
    else:
        pages.flatten(0, 1).index_copy_(0, cells, x)


def load_blocks(pages: Pages, blocks: Tensor) -> Tensor:
    """The tokens (len(blocks) * block_size, G, D) of `blocks`, float32."""
    if isinstance(pages, Fp8Pages):
        raw = pages.data.view(torch.uint8)[blocks].view(FP8)
        return (raw.float() * pages.scale[:, None]).flatten(0, 1)
    return pages[blocks].flatten(0, 1).float()


def storage(pages: Pages) -> Tensor:
    """The tensor (blocks, ...) behind the pages, of a dtype that can be zeroed and indexed."""
    return pages.data.view(torch.uint8) if isinstance(pages, Fp8Pages) else pages
