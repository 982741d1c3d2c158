"""Which format an output has, by its name.

rows.jsonl, rows.txt, rows    JSON Lines
rows.csv, rows.tsv            CSV, its values separated by commas or tabs
rows.parquet                  Parquet
rows.jsonl.gz, rows.csv.zst   what the name without the ending says, packed
-                             JSON Lines on standard output
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stoker.errors import JobError

STDOUT = Path("-")
FORMS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
PACKINGS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
# what is said by these names cannot be written
FOREIGN = {".7z", ".arrow", ".avro", ".bz2", ".db", ".feather", ".orc", ".sqlite", ".tar", ".tgz"}
FOREIGN |= {".xls", ".xlsx", ".xz", ".zip"}


@dataclass(frozen=True)
class OutputFormat:
    """What is written.

    Attributes:
        form: "jsonl", "csv", "tsv" or "parquet".
        packing: "gzip", "zstd", or "" for none.
    """

    form: str
    packing: str = ""

    @property
    def made(self) -> bool:
        """Whether it is made of the journal when all rows have results; rows of JSON Lines that
        are not packed can be appended as they come."""
        return self.form != "jsonl" or bool(self.packing)


def output_format(output: Path) -> OutputFormat:
    """The format that the name of `output` says.

    Raises:
        JobError: it says one that can't be written.
    """
    ending = output.suffix.lower()
    packing = PACKINGS.get(ending, "")
    if packing:
        ending = Path(output.stem).suffix.lower()
    form = FORMS.get(ending, "jsonl")
    if ending in FOREIGN:
        raise JobError(
            f"{output.name} says {ending}, which is not written; name the output .jsonl, .csv, "
            ".tsv or .parquet, or one of the first three with .gz or .zst behind it"
        )
    if packing and form == "parquet":
        raise JobError(f"{output.name}: Parquet packs its columns itself; name it .parquet")
    return OutputFormat(form, packing)
