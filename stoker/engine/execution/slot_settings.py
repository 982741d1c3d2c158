"""The settings of draws, kept by slot on the device: sent once, when a sequence begins to draw.

A column of six 8-byte fields for each slot holds the bits of a `DrawSettings`. A step says which
columns its draws use. Those of one item use its slot's, but for further samples of a prompt: these
have no slot yet, and their columns come with the step. Slots 4 and 1 of 5, of which the first
draws three samples of its prompt and the second a token and, after it, two that verify drafts:

    columns     4 6 7 | 1 1 1       5 is the dummy's; 6 and 7 are the two of `further`
    positions   9 9 9 | 3 4 5
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from collections.abc import Sequence as Seq
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.request.request import DrawSettings
from stoker.ops.draw import DrawParams

Ints = NDArray[np.int64]
_PACKED = struct.Struct("=4dqQ")  # the fields of `DrawSettings`
_FIELDS = 6
_NO_SETTINGS: Ints = np.zeros((_FIELDS, 0), np.int64)
_NO_CHANGES: Ints = np.zeros((1 + _FIELDS, 0), np.int64)


class DrawArrays(NamedTuple):
    """What N draws of a step need, on the host; int64."""

    values: Ints  # (6, N) their settings
    positions: Ints  # (N,) of the drawn tokens
    columns: Ints  # (N,) where the device finds the settings
    changes: Ints  # (1 + 6, C) slots, and the settings that the device lacks there
    further: Ints  # (6, F) settings behind those of the slots


class SentDraws(NamedTuple):
    """A `DrawArrays` whose other parts have come to the device."""

    values: Ints
    positions: Tensor
    columns: Tensor
    changes: Tensor
    further: Tensor


class SlotSettings:
    """The settings by slot, on the host and on the device, or in memory that both share.

    Attributes:
        further: the column of the first settings behind those of the slots and the dummy.
    """

    def __init__(self, num_slots: int, device: torch.device, shared: bool) -> None:
        self.further = num_slots + 1
        self._values: Ints = np.zeros((_FIELDS, num_slots + 1), np.int64)
        self._known: list[DrawSettings | None] = [None] * num_slots
        self._shared = shared
        self._table = torch.from_numpy(self._values)
        if not shared:
            self._table = self._table.clone().to(device)

    def update(
        self,
        columns: Seq[int],
        settings: Seq[DrawSettings],
        positions: Ints,
        further: Seq[DrawSettings] = (),
    ) -> DrawArrays:
        """Take note of the settings of a step's draws.

        Args:
            columns: (N,) of the draws; those beyond the dummy's are `further`.
            settings: of the draws.
            positions: (N,) of the drawn tokens.
        """
        known, held, where = self._known, self._values, np.array(columns, np.int64)
        slots, changes, more = len(known), _NO_CHANGES, _NO_SETTINGS
        # a completion keeps its object
        pairs = zip(columns, settings, strict=True)
        new = {at: one for at, one in pairs if at < slots and known[at] is not one}
        if new:
            for slot, one in new.items():
                known[slot] = one
            places = np.array([*new])
            held[:, places] = packed = _pack(new.values())
            changes = np.concatenate((places[None], packed))
        if further:
            more = _pack(further)
            held = np.concatenate((held, more), axis=1)
        return DrawArrays(held[:, where], positions, where, changes, more)

    def send(self, changes: Tensor) -> None:
        """Bring `changes`, those of a `DrawArrays`, into the table on the device."""
        if not self._shared and changes.shape[1]:
            self._table.index_copy_(1, changes[0], changes[1:])

    def send_all(self) -> None:
        """Bring all settings to the device."""
        if not self._shared:
            self._table.copy_(torch.from_numpy(self._values))

    def params(self, draws: SentDraws, vocab: int) -> DrawParams:
        """The parameters of a step's draws on the device, with the filters that some draw uses."""
        if self._shared:
            values = torch.from_numpy(draws.values)
        elif draws.further.shape[1]:
            values = torch.cat((self._table, draws.further), dim=1).index_select(1, draws.columns)
        else:
            values = self._table.index_select(1, draws.columns)
        temperature, top_p, min_p, typical_p = draws.values[:4].view(np.float64)
        random, top_k = temperature > 0, draws.values[4]
        floats = values[:4].view(torch.float64)
        return DrawParams(
            temperature=floats[0].float(),
            seeds=values[5],
            positions=draws.positions,
            top_k=values[4] if (random & (top_k > 0) & (top_k < vocab)).any() else None,
            top_p=floats[1] if (random & (top_p < 1)).any() else None,
            min_p=floats[2] if (random & (min_p > 0)).any() else None,
            typical_p=floats[3] if (random & (typical_p < 1)).any() else None,
        )


def slot_settings_bytes(num_slots: int) -> int:
    """Bytes that `SlotSettings` takes on the device."""
    return 8 * _FIELDS * (num_slots + 1)


def _pack(settings: Collection[DrawSettings]) -> Ints:
    """The bits of `settings`, (6, len(settings))."""
    packed = b"".join([_PACKED.pack(*one) for one in settings])
    return np.frombuffer(packed, np.int64).reshape(-1, _FIELDS).T.copy()
