"""A folder of text files: each of them is a row.

Knows nothing of prompts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from stoker.errors import JobError
from stoker.job.rows import BadRow
from stoker.job.sources.base import LARGEST, FileSource, Rows
from stoker.job.sources.lines import text_row
from stoker.job.sources.streams import PACKED, opened

ENDINGS = (".txt", ".md", ".text")


class TextFolder(FileSource):
    """Rows with the columns `file` (its path in the folder) and `text`, in the order of paths.

    Args:
        folder: searched with the folders in it; names that begin with a dot are passed over.

    Raises:
        JobError: there is no text file.
    """

    form = "text"

    def __init__(self, folder: Path) -> None:
        everything = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not any(n.startswith(".") for n in path.relative_to(folder).parts)
        )
        found = [path for path in everything if _ending(path) in ENDINGS]
        if not found:
            others = sorted({path.suffix for path in everything if path.suffix})[:5]
            there = f"what is there ends in {', '.join(others)}" if others else "it is empty"
            raise JobError(
                f"{folder} is a folder without text files ({', '.join(ENDINGS)}); {there}; name "
                "a file, or the folder of a saved dataset"
            )
        super().__init__(found, folder.name)
        self._folder = folder

    def rows(self) -> Rows:
        for number, path in enumerate(self.paths, 1):
            place = self._inside(path)
            try:
                with opened(path) as file:
                    text = file.read(LARGEST + 1)
            except JobError as problem:
                yield BadRow(number, f"{place}: {problem}", {"file": place})
            else:
                yield text_row(number, text.removeprefix(b"\xef\xbb\xbf"), place, {"file": place})

    def count(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Of the files' names and contents."""
        names = "\0".join(map(self._inside, self.paths))
        whole = f"{super().fingerprint()}\0{names}".encode("utf-8", "surrogateescape")
        return f"blake2b:{hashlib.blake2b(whole, digest_size=20).hexdigest()}"

    def _inside(self, path: Path) -> str:
        inside = path.relative_to(self._folder).as_posix()
        return inside.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _ending(path: Path) -> str:
    name = Path(path.stem) if path.suffix in PACKED else path
    return name.suffix.lower()
