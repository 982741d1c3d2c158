"""What a model's folder lacks, where copying or downloading it went wrong.

Looks at names and first bytes, and reads no weights. Called when a model is looked for.
"""

from __future__ import annotations

from pathlib import Path

from stoker.errors import ModelError

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # files of a model
POINTER = b"version https://git-lfs.github.com/spec/"  # how a Git LFS pointer begins
POINTER_SIZE = 1024  # bytes, at most


def require_files(folder: Path, again: str) -> None:
    """Check that the files in a model's folder are there, and not placeholders.

    Args:
        again: how to get them, for messages.

    Raises:
        ModelError: a link leads nowhere, as in a cached model that was copied without what its
            links point to, or a file is a Git LFS pointer, as in a clone without Git LFS.
    """
    for path in sorted(one for pattern in PATTERNS for one in folder.glob(pattern)):
        try:
            if path.stat().st_size > POINTER_SIZE or not path.is_file():
                continue
            with path.open("rb") as file:
                start = file.read(len(POINTER))
        except FileNotFoundError:
            raise ModelError(
                f"{path} is a link to {path.readlink()}, which is not there; {again}"
            ) from None
        except OSError as problem:
            raise ModelError(f"cannot read {path}: {problem.strerror}") from None
        if start == POINTER:
            raise ModelError(
                f"{path} is a Git LFS pointer and not the file itself; fetch the files with "
                "git lfs pull"
            )
