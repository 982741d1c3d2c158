"""Parameters of draws without an engine, for tests of what samples."""

import numpy as np
import torch

from stoker.engine.execution.slot_settings import SentDraws, SlotSettings
from stoker.engine.request.request import DrawSettings

CPU = torch.device("cpu")


def settings_of(params, seed):
    """The settings of draws with these `SamplingParams`."""
    return DrawSettings(
        params.temperature, params.top_p, params.min_p, params.typical_p, params.top_k, seed
    )


def params_of(settings, positions, vocab):
    """The parameters of draws with `settings` at `positions`, each in a slot of its own."""
    slots = SlotSettings(len(settings), CPU, shared=True)
    arrays = slots.update(range(len(settings)), settings, np.array(positions, np.int64))
    return slots.params(SentDraws(arrays.values, *map(torch.from_numpy, arrays[1:])), vocab)
