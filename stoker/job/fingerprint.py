"""Fingerprints of an input file and of a model folder: equal only if the content is.

Called by the sources and the job; knows neither.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from stoker.errors import JobError
from stoker.model.checkpoint import tensor_files

SMALL = 64 << 20  # a larger file that is not weights is known by its size alone
HEADER = 64 << 10


def new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def model_fingerprint(folder: Path) -> str:
    """A hash of the model's small files, and of the headers, sizes and ends of its weight files.

    Weights are not read whole, which would take longer than loading them. A file's time does
    not count: a copy of a model is the same model.

    Raises:
        ModelError: the folder holds no weights.
        JobError: a file can't be read.
    """
    total = new_hash()
    weights = set(tensor_files(folder))
    patterns = ("*.json", "*.jinja", "*.model", "*.txt")
    small = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    try:
        for path in sorted(weights | small):
            size = path.stat().st_size
            total.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                if path in weights or size > SMALL:
                    for at in (0, size // 2, max(0, size - HEADER)):
                        file.seek(at)
                        total.update(file.read(HEADER))
                else:
                    total.update(file.read())
    except OSError as problem:
        raise JobError(f"cannot read {path}: {problem.strerror}") from problem
    return total.hexdigest()
