"""Threads, memory and huge pages: what Linux gives this process of the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stoker.doctor.finding import Finding
from stoker.engine.setup.budget import gib
from stoker.engine.setup.cgroups import read_text
from stoker.engine.setup.host_memory import free_memory, memory_limit
from stoker.engine.setup.threads import (
    ROOT,
    cpu_quota,
    default_threads,
    physical_cores,
    usable_cores,
)
from stoker.job.replicas import memory_nodes

TIGHT = 2 << 30  # bytes free, below which not even a small model has room


def examine_machine(root: Path = ROOT) -> Iterator[Finding]:
    """Threads, memory nodes, memory and huge pages."""
    yield _threads(root)
    yield _nodes(root)
    yield _memory(root)
    yield _huge_pages(root)


def _threads(root: Path) -> Finding:
    usable, all_cores = usable_cores(), os.cpu_count() or 1
    physical, quota = len(physical_cores(usable, root)), cpu_quota(root)
    threads, asked = default_threads(usable, root=root), os.environ.get("OMP_NUM_THREADS")
    facts = {
        "threads": threads,
        "logical_cores": all_cores,
        "usable_cores": len(usable),
        "physical_cores": physical,
        "cgroup_quota": quota,
        "OMP_NUM_THREADS": asked,
    }
    why, advice = f"one for each of {physical} physical cores", ""
    if len(usable) < all_cores:
        why += f"; the affinity allows {len(usable)} of {all_cores} logical cores"
        advice = "allow more cores (taskset, the container's cpuset)"
    if quota is not None and threads < physical:
        why += f"; the cgroup's quota is {quota:g}"
        advice = "raise the cgroup's quota (in a container: --cpus)"
    if asked:
        why = f"OMP_NUM_THREADS is {asked}; there are {physical} physical cores"
        advice = "unset OMP_NUM_THREADS" if threads < physical else ""
    return Finding("threads", str(threads), why, advice, facts)


def _nodes(root: Path) -> Finding:
    usable = set(usable_cores())
    nodes = [node for node in memory_nodes(root / "sys/devices/system/node") if node & usable]
    facts = {"nodes": len(nodes)}
    if len(nodes) < 2:
        return Finding("memory nodes", "1", "", "", facts)
    advice = "stoker run --replicas auto keeps an engine on each memory node"
    return Finding("memory nodes", str(len(nodes)), "cores read their own faster", advice, facts)


def _memory(root: Path) -> Finding:
    sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", read_text(root / "proc/meminfo") or ""))
    total, free = (int(sizes.get(key, 0)) << 10 for key in ("MemTotal", "MemAvailable"))
    limit = memory_limit(root)
    facts = {"total_bytes": total, "available_bytes": free, "cgroup_limit_bytes": limit}
    if not total:
        return Finding("memory", "not known", "there is no /proc/meminfo", "", facts)
    found = f"{gib(free)} free of {gib(total)}"
    why = f"the cgroup allows {gib(limit)}" if limit is not None and limit < total else ""
    little = free_memory(root) < TIGHT
    advice = "free some memory: weights and cache have little room" if little else ""
    return Finding("memory", found, why, advice, facts)


def _huge_pages(root: Path) -> Finding:
    folder = root / "sys/kernel/mm/transparent_hugepage"
    chosen = re.search(r"\[(\w+)\]", read_text(folder / "enabled") or "")
    facts = {"transparent_hugepage": chosen and chosen[1]}
    if chosen is None:
        return Finding("huge pages", "none", "this system tells of none", "", facts)
    if chosen[1] == "never":
        return Finding(
            "huge pages",
            "off",
            f"{folder / 'enabled'} is never",
            f"echo madvise > {folder / 'enabled'}, as root: products are 3 to 12 % faster",
            facts,
        )
    return Finding("huge pages", "on", f"{folder / 'enabled'} is {chosen[1]}", "", facts)
