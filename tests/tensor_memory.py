"""Follows the tensors that are made: how much memory they held at once, and their shapes."""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Within it, every new tensor counts until its memory is given back.

    Args:
        wanted: which tensors count, by shape and dtype.
    """

    def __init__(self, wanted):
        super().__init__()
        self.wanted = wanted
        self.live = self.peak = 0  # bytes
        self.shapes = Counter()
        self._known = {}  # storages that are alive

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        inputs = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if _is_tensor(x)}
        for x in tree_leaves(out):
            if _is_tensor(x) and id(x.untyped_storage()) not in inputs:
                self._add(x)
        return out

    def _add(self, x):
        storage = x.untyped_storage()
        if id(storage) in self._known or not self.wanted(x):
            return
        key, size = id(storage), storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key, size))
        self.shapes[tuple(x.shape)] += 1
        self.live += size
        self.peak = max(self.peak, self.live)

    def _drop(self, key, size):
        del self._known[key]
        self.live -= size


def _is_tensor(x):
    return isinstance(x, torch.Tensor)
