"""How long a device was busy and with what, by torch.profiler; on a CPU, its operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Trace:
    """Seconds from the first kernel to the end of the last, and of that with a kernel running.

    `kernels` has calls and seconds by name, those that took longest first.
    """

    span: float
    busy: float
    kernels: dict[str, tuple[int, float]]

    def top(self, count: int) -> list[tuple[str, int, float]]:
        return [(name, *self.kernels[name]) for name in list(self.kernels)[:count]]


def trace(work: Callable[[], object], device: torch.device) -> Trace:
    """What `work` does on the device. It takes longer than it would without a profiler."""
    cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    if cuda:
        torch.cuda.synchronize(device)  # what was launched before is not counted
    with profile(activities=[activity]) as found:
        work()
        if cuda:
            torch.cuda.synchronize(device)
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events = [one for one in found.events() if one.device_type == kind]
    kernels: dict[str, tuple[int, float]] = {}
    for one in events:
        calls, seconds = kernels.get(one.name, (0, 0.0))
        length = one.time_range.elapsed_us() if cuda else one.self_cpu_time_total
        kernels[one.name] = (calls + 1, seconds + length / 1e6)
    ordered = sorted(kernels.items(), key=lambda one: -one[1][1])
    times = sorted((one.time_range.start, one.time_range.end) for one in events)
    span, busy = union(times)
    return Trace(span / 1e6, busy / 1e6, dict(ordered))


def union(times: list[tuple[float, float]]) -> tuple[float, float]:
    """The length from the first start to the last end, and how much of it intervals cover.

    Args:
        times: start and end of each, in the order of their starts.
    """
    if not times:
        return 0.0, 0.0
    busy, reached = 0.0, times[0][0]
    for start, end in times:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return reached - times[0][0], busy
