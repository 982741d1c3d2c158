"""How much of the host's memory this process may still take.

Imports no torch. Called where the cache of a CPU is sized.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from stoker.engine.setup.cgroups import cgroup_folders, read_text

ROOT = Path("/")
# by version of cgroups: the files of the limit and of what is used, and the entry of memory.stat
# with the cached pages of files, which go as soon as memory is wanted
FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory(root: Path = ROOT) -> int:
    """Bytes that are free on the host, or less if a cgroup leaves less, as a container's does.

    Args:
        root: where /sys and /proc are.
    """
    found = re.search(r"MemAvailable:\s+(\d+) kB", read_text(root / "proc/meminfo") or "")
    if found:
        free = int(found[1]) * 1024
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(0, min([free, *_left_by_cgroups(root)]))


def memory_limit(root: Path = ROOT) -> int | None:
    """The least of the limits of this process's cgroup and those around it, in bytes."""
    limits = (
        read_text(folder / FILES[version][0]) or ""
        for version, folder in cgroup_folders("memory", root)
    )
    return min((int(limit) for limit in limits if limit.isdigit()), default=None)  # else "max"


def _left_by_cgroups(root: Path) -> list[int]:
    """What the limits of each cgroup around this process leave."""
    left = []
    for version, folder in cgroup_folders("memory", root):
        limit_file, used_file, reclaimable = FILES[version]
        limit, used = read_text(folder / limit_file) or "", read_text(folder / used_file) or ""
        if not limit.isdigit() or not used.isdigit():  # "max", or no such folder
            continue
        stat = read_text(folder / "memory.stat") or ""
        cached = re.search(rf"^{reclaimable} (\d+)$", stat, re.MULTILINE)
        left.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return left
