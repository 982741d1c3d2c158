"""How many threads compute on a CPU: one for each physical core that this process may use.

Linear maps and attention keep a core's arithmetic units busy, so a second thread on the same core
gains nothing, and one more than there are cores makes all wait for the slowest. Reads what Linux
says of cores, affinity and cgroups; imports no torch. Called where an engine is made, by the
command line and by replicas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from stoker.engine.setup.cgroups import cgroup_folders, read_text

ROOT = Path("/")


def default_threads(cores: Iterable[int] | None = None, share: int = 1, root: Path = ROOT) -> int:
    """The number of threads for an engine on a CPU.

    OMP_NUM_THREADS decides if it is set, up to one thread for each logical core there is. Otherwise
    it is the number of physical cores among `cores`, or less if the cgroup's quota is less.

    Args:
        cores: logical cores the engine may use; None takes those of this process's affinity.
        share: engines that share the cgroup's quota.
        root: where /sys and /proc are.
    """
    allowed = usable_cores() if cores is None else list(cores)
    asked = re.match(r"\s*(\d+)", os.environ.get("OMP_NUM_THREADS", ""))
    if asked and int(asked[1]):
        return min(int(asked[1]), len(allowed))
    count = len(physical_cores(allowed, root))
    quota = cpu_quota(root)
    return count if quota is None else max(1, min(count, int(quota / share)))


def usable_cores() -> list[int]:
    """The logical cores this process may run on; all of the machine where that can't be asked."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores(cores: Iterable[int], root: Path = ROOT) -> list[list[int]]:
    """`cores` with the hyperthreads of one physical core together, in the order of their first.

    A core of which Linux tells nothing counts as one of its own.
    """
    found: dict[frozenset[int], list[int]] = {}
    for core in sorted(cores):
        file = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        siblings = core_list(text) if (text := read_text(file)) else {core}
        found.setdefault(frozenset(siblings), []).append(core)
    return list(found.values())


def core_list(text: str) -> set[int]:
    """The cores of a list as Linux writes it: "0-3,8-11"."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return found


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processors' worth of time that this process's cgroup may use, in version 1 or 2.

    The least of the cgroup and those around it; None without a limit.
    """
    limits: list[float] = []
    for version, folder in cgroup_folders("cpu", root):
        if version == 2:
            quota, period = (*(read_text(folder / "cpu.max") or "").split(), "", "")[:2]
        else:
            quota = read_text(folder / "cpu.cfs_quota_us") or ""
            period = read_text(folder / "cpu.cfs_period_us") or ""
        limits += _limit(quota, period)
    return min(limits, default=None)


def _limit(quota: str, period: str) -> list[float]:
    """quota / period; nothing where they set no limit ("max", -1) or are not there."""
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return []
    return [int(quota) / int(period)]
