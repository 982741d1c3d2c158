"""The block tables of running sequences, kept on the device from step to step.

With each step only the entries that are new go there, and the step's tables are gathered there.
Knows rows (table_rows.py), no sequences. Called by the batch builder and the CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.engine.execution.table_rows import TableRows


class Mirror:
    """`TableRows` and their image on `device`.

    Args:
        idle_block: what unused entries hold.
        shared: whether host and device have the same memory; None: if `device` is a CPU.
    """

    def __init__(
        self, device: torch.device, idle_block: int = 0, shared: bool | None = None
    ) -> None:
        self.rows = TableRows(idle_block)
        self._device = device
        self._shared = device.type == "cpu" if shared is None else shared
        self._tables = torch.empty(0, 0, dtype=torch.int64, device=device)
        self._seen = 0  # updates that the tables on the device have

    def tables(self, changes: Tensor, rows: Tensor, width: int) -> Tensor:
        """The block tables of a step, (S, width) int64 on the device.

        Args:
            changes: (2, C) what the last `TableRows.update` returned, on the device.
            rows: (S,) int64 of the step's sequences, on the device.
        """
        missed = self.rows.updates - self._seen > 1  # a step failed before it came here
        if missed or self._tables.shape != self.rows.entries.shape:
            entries = torch.from_numpy(self.rows.entries)
            self._tables = entries if self._shared else entries.clone().to(self._device)
        elif not self._shared and changes.shape[1]:
            self._tables.view(-1).index_copy_(0, changes[0], changes[1])
        self._seen = self.rows.updates
        return self._tables[:, :width].index_select(0, rows)
