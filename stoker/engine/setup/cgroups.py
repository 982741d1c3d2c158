"""The control groups of this process, whose limits a container has in place of the machine's.

Reads what Linux says of them, in version 1 or 2. Called for a CPU's threads and for free memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def cgroup_folders(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """The folders of this process's group and of all around it, each of which may set a limit.

    Args:
        controller: "cpu" or "memory".
        root: where /sys and /proc are.

    Yields: 1 or 2, the version of its files, and a folder, which need not exist.
    """
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version, mounts = 2, ("", "unified")
        elif controller in controllers.split(","):
            version, mounts = 1, (controllers, controller)
        else:
            continue
        for folder in _upwards(root, mounts, path):
            yield version, folder


def _upwards(root: Path, mounts: Iterable[str], path: str) -> Iterator[Path]:
    """The folders of a cgroup and of all around it, below each of the mounts.

    In a container the path may be the host's, of which just the outermost folder is there.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for mount in dict.fromkeys(mounts):
        for count in range(len(parts), -1, -1):
            yield root.joinpath("sys/fs/cgroup", mount, *parts[:count])


def read_text(file: Path) -> str | None:
    """A small file's text without blanks at its ends; None if it can't be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return None
