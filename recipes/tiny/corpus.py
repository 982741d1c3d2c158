"""Builds the plain-text corpus from packages that anyone can install.

Sources are listed with their licences in SOURCES; only permissive licences and the public
domain. Does not tokenise, and downloads nothing: install the packages first (README.md).
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib.util
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SOURCES = {
    "python-docstrings": "docstrings of the Python standard library (PSF-2.0)",
    "python-source": "source of the Python standard library (PSF-2.0)",
    "numpy-docstrings": "docstrings of NumPy (BSD-3-Clause)",
    "torch-docstrings": "docstrings of PyTorch (BSD-3-Clause)",
    "wordnet": "WordNet 3.0, Debian package dict-wn (WordNet licence, permissive)",
    "jargon": "The Jargon File, Debian package dict-jargon (public domain)",
}
DICTIONARIES = Path("/usr/share/dictd")
HELD_OUT_ONE_IN = 100


def _python_files(root: Path) -> list[Path]:
    skipped = {"test", "tests", "site-packages", "idlelib", "lib2to3", "dist-packages"}
    return [path for path in sorted(root.rglob("*.py")) if not skipped & set(path.parts)]


def _docstrings(root: Path) -> Iterator[str]:
    for path in _python_files(root):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        texts = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 40:
                    texts.append(text)
        if texts:
            yield "\n\n".join(texts)


def _source(root: Path) -> Iterator[str]:
    for path in _python_files(root):
        text = path.read_text(encoding="utf-8", errors="ignore")
        if 500 < len(text) < 60_000 and text.isascii():
            yield text


def _dictionary(name: str) -> Iterator[str]:
    with gzip.open(DICTIONARIES / f"{name}.dict.dz", "rt", encoding="utf-8", errors="ignore") as f:
        text = f.read()
    text = re.sub(r" \[syn: [^\]]*\]", "", text)
    text = re.sub(r"\n {5,}", "\n  ", text).replace("{", "").replace("}", "")
    entries = text.split("\n\n") if name == "jargon" else re.split(r"\n(?=\S)", text)
    for start in range(0, len(entries), 20):
        yield "\n".join(entries[start : start + 20])


def _package_root(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return Path(spec.origin).parent


def documents() -> Iterator[tuple[str, str]]:
    """Every document as (source, text)."""
    library = Path(sysconfig.get_path("stdlib"))
    makers: dict[str, Iterator[str]] = {
        "python-docstrings": _docstrings(library),
        "python-source": _source(library),
        "numpy-docstrings": _docstrings(_package_root("numpy")),
        "torch-docstrings": _docstrings(_package_root("torch")),
        "wordnet": _dictionary("wn"),
        "jargon": _dictionary("jargon"),
    }
    for source, texts in makers.items():
        for text in texts:
            yield source, text.strip()


def split(seed: int) -> tuple[list[str], list[str]]:
    """Training and held-out documents; one in a hundred of each source is held out."""
    rng = random.Random(seed)
    train: list[str] = []
    held_out: list[str] = []
    for _, text in documents():
        (held_out if rng.randrange(HELD_OUT_ONE_IN) == 0 else train).append(text)
    rng.shuffle(train)
    return train, held_out


def main() -> None:
    """Write train.txt and held_out.txt, documents separated by a NUL character."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, texts in zip(("train", "held_out"), split(args.seed), strict=True):
        (args.out / f"{name}.txt").write_text("\0".join(texts), encoding="utf-8")
        print(name, len(texts), "documents", sum(map(len, texts)), "characters")


if __name__ == "__main__":
    main()
