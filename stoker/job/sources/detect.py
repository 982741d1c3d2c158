"""Which format an input has, by its content and its extension.

Looks at the first bytes, unpacked. Called by the job through `open_source`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from stoker.errors import JobError, suggest
from stoker.job.sources.array import JsonArray
from stoker.job.sources.base import FileSource, Source
from stoker.job.sources.columnar import Arrow, Parquet, dataset_files
from stoker.job.sources.folder import TextFolder
from stoker.job.sources.lines import BOM, UTF16, JsonLines, TextLines
from stoker.job.sources.streams import PACKED, kept_pipe, opened, standard_input
from stoker.job.sources.table import Table, parse_delimiter

HEAD = 1 << 16  # bytes that are looked at
FEW = 16  # bytes that say nothing about an encoding
Maker = Callable[[Sequence[Path], str], FileSource]

FORMATS: dict[str, Maker] = {
    "jsonl": JsonLines,
    "json": JsonArray,
    "csv": Table,
    "tsv": lambda paths, name: Table(paths, name, "\t"),
    "text": TextLines,
    "parquet": Parquet,
    "arrow": Arrow,
}
EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
DATA = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
DESCRIPTIONS = ("readme", "license", "licence", "changelog", "notice", "citation", "contributing")
BINARY = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow"}  # whatever it holds
FOREIGN = {
    b"version https://git-lfs.": "a Git LFS pointer and not the file; fetch that with git lfs pull",
    b"PK\x03\x04": "a zip archive (or an office document); unpack it, or save it as CSV",
    b"BZh": "packed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "packed by xz; unpack it (unxz)",
    b"%PDF": "a PDF document; extract its text",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"\xff\xfe\0\0": "UTF-32 text; convert it (iconv -f UTF-32 -t UTF-8)",
    b"\0\0\xfe\xff": "UTF-32 text; convert it (iconv -f UTF-32 -t UTF-8)",
    **dict.fromkeys(UTF16, "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8)"),
}
TABLES = ("csv", "tsv")
NOT_TEXT = ("parquet", "arrow")


def open_source(path: str | Path, form: str = "auto", delimiter: str | None = None) -> Source:
    """The rows of a file, of a folder, or of standard input ("-").

    Args:
        path: where they are.
        form: a key of `FORMATS`; "auto" tells it by content and extension.
        delimiter: between the values of CSV, as `parse_delimiter` takes it; None finds it out.

    Raises:
        JobError: it can't be read, or is of no known format; a delimiter is given, and it is no
            CSV.
    """
    delimiter = None if delimiter is None else parse_delimiter(delimiter)
    if form != "auto" and form not in FORMATS:
        raise JobError(f"unknown format {form!r}; {suggest(form, ['auto', *FORMATS])}")
    name = ""
    path = Path(path)
    if str(path) == "-":
        path, name = standard_input()[0], "standard input"
    elif path.is_fifo():
        path, name = kept_pipe(path)[0], str(path)
    if path.is_dir() and delimiter is None:
        return _folder(path, form)
    if form == "auto":
        form = _form(path, name)
        if form == "text" and delimiter is not None:
            form = "csv"
    elif form not in NOT_TEXT:
        with opened(path) as file:
            _require_known(file.read(HEAD), str(name or path))
    if delimiter is None:
        return FORMATS[form]([path], name or path.name)
    if form not in TABLES:
        raise JobError(
            f"--delimiter is for CSV, and {name or path} is {form}; leave it out, or say what "
            "the file is with --format csv"
        )
    return Table([path], name or path.name, delimiter)


def _folder(folder: Path, form: str) -> Source:
    if form not in ("auto", "text", "parquet", "arrow"):
        raise JobError(f"{folder} is a folder where a {form} file is expected; name a file in it")
    if form in ("auto", "arrow") and any(
        (folder / name).is_file() for name in ("state.json", "dataset_dict.json")
    ):
        return Arrow(dataset_files(folder), folder.name)
    for kind, maker in (("arrow", Arrow), ("parquet", Parquet)):
        if form in ("auto", kind) and (found := sorted(folder.glob(f"*.{kind}"))):
            return maker(found, folder.name)
    if form in ("arrow", "parquet"):
        raise JobError(f"{folder} is a folder without .{form} files; name another")
    source = TextFolder(folder)
    if form == "auto":
        _refuse_description(folder, source.paths)
    return source


def _refuse_description(folder: Path, texts: Sequence[Path]) -> None:
    """Refuse a repository of data, whose only text files say what it is, such as README.md.

    Raises:
        JobError: names what it holds beside them.
    """
    if any(path.stem.lower() not in DESCRIPTIONS for path in texts):
        return
    data = (one for ending in (*BINARY, *DATA) for one in folder.rglob(f"*{ending}*"))
    first = min((one for one in data if one.is_file()), default=None)
    if first is not None:
        names = ", ".join(path.name for path in texts)
        raise JobError(
            f"{folder} holds data beside {names}: name {first}, or the folder of such files; "
            f"--format text makes prompts of {names}"
        )


def _form(path: Path, name: str) -> str:
    with opened(path) as file:
        head = file.read(HEAD)
    shown = name or path
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    bare = head.removeprefix(BOM)
    if not bare.strip():
        raise JobError(f"{shown} holds no rows: it is empty; give a file with a prompt in each row")
    _require_text(bare, str(shown))
    ending = (Path(path.stem) if path.suffix.lower() in PACKED else path).suffix.lower()
    if ending in BINARY and not name:
        raise JobError(
            f"{shown} is no {BINARY[ending]} file, whatever its name: it begins with "
            f"{bare[:20]!r}; make or fetch it again, or say with --format what it is"
        )
    known = "" if name else EXTENSIONS.get(ending, "")
    if known in ("", "json", "jsonl"):
        return _json_form(bare.strip(), known, str(shown))
    return known


def _json_form(text: bytes, known: str, shown: str) -> str:
    """JSON Lines, an array or, where the extension says nothing (`known`), plain text."""
    first = text.split(b"\n", 1)[0]
    if text.startswith(b"[") and (
        known == "json" or text[1:].lstrip()[:1] in (b"{", b"") or not _json(first)
    ):
        return "json"
    if text.startswith(b"{") and first.strip() == b"{" and b"\n" in text:
        raise JobError(
            f"{shown} holds a JSON object that goes over several lines; put each on a line of its "
            "own: jq -c . FILE > rows.jsonl"
        )
    return "jsonl" if known or text.startswith(b"{") else "text"


def _json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _require_known(head: bytes, shown: str) -> None:
    """Refuse what is known by its beginning to be something else.

    Raises:
        JobError: it is, and how to convert it.
    """
    for start, what in FOREIGN.items():
        if head.startswith(start):
            raise JobError(f"{shown} is {what}")
    head = head.strip(b"\0")
    if max(head[0::2].count(0), head[1::2].count(0)) > max(len(head) // 4, FEW // 4):
        order = "LE" if head[1::2].count(0) > head[0::2].count(0) else "BE"
        raise JobError(
            f"{shown} is UTF-16 text, or no text at all; if it is, convert it (iconv -f "
            f"UTF-16{order} -t UTF-8)"
        )


def _require_text(head: bytes, shown: str) -> None:
    """Refuse binary files, by name where they are known.

    Raises:
        JobError: the bytes are no text.
    """
    _require_known(head, shown)
    head = head.strip(b"\0")  # which a crash leaves of blocks that were not written
    odd = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    lost = head.decode("utf-8", "replace").count("\ufffd")
    if not head or odd > len(head) // 8 or (b"\0" in head and lost > FEW):
        raise JobError(
            f"{shown} is neither text nor Parquet nor Arrow; give {', '.join(FORMATS)}, packed by "
            "gzip or zstd or not"
        )
    if lost > len(head) // 4 > FEW:
        raise JobError(
            f"{shown} is no text in UTF-8; if it is text in another encoding, convert it "
            "(iconv -f ENCODING -t UTF-8)"
        )
