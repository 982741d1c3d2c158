"""The sidecar folder of a job: what it is a job of, its lock, and where its journal lies.

OUT.stoker/ holds job.json (fingerprints and settings), lock, and rows.jsonl where the output
itself can't be appended to. Decides whether a command continues a job, and what of it is left.
Called by the job; knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.errors import JobError
from stoker.job.journal import Entry, RowSet, encoded, entries, is_entry, replacing
from stoker.job.report import Report
from stoker.job.settings import JobSettings

FORMAT = 1
JOURNAL = "rows.jsonl"  # in the folder beside the output
AGAIN = "; give another output, or --restart to start over"


def sidecar(output: Path) -> Path:
    """The folder beside `output` that says what job it is of."""
    return output.with_name(output.name + ".stoker")


class State:
    """A job's sidecar folder, which need not exist yet."""

    def __init__(self, settings: JobSettings) -> None:
        self.settings = settings
        self.output = settings.output
        self.folder = sidecar(self.output)
        self.lock = self.folder / "lock"
        self.journal = self.folder / JOURNAL if settings.staged else self.output
        self._file = self.folder / "job.json"

    def load(self) -> dict[str, Any] | None:
        """What the job here was begun with; None if none was, or nothing is to be kept of it.

        Raises:
            JobError: job.json can't be read, or the output is not of a job.
        """
        if self.settings.restart:
            return None
        try:
            known = json.loads(self._file.read_bytes())
            if not isinstance(known, dict) or known["format"] != FORMAT:
                raise JobError(f"{self._file} is of another version of Stoker{AGAIN}")
        except (FileNotFoundError, NotADirectoryError):
            if self.output.exists():
                raise JobError(
                    f"{self.output} exists; give another name, or --restart to replace it"
                ) from None
            return None
        except OSError as problem:
            raise JobError(f"cannot read {self._file}: {problem.strerror}") from problem
        except (ValueError, KeyError):
            raise JobError(f"{self._file} is damaged{AGAIN}") from None
        return known

    def adopt(self) -> None:
        """Take over what an earlier version has left: its output was the journal also where the
        name says CSV or a packed file.

        Raises:
            JobError: it can't be read or moved.
        """
        if not self.settings.output_format.made or self.journal.exists():
            return
        try:
            with self.output.open("rb") as file:
                rows = is_entry(file.readline(), self.settings.result_key)
            if rows:
                self.output.rename(self.journal)
        except OSError as problem:
            raise JobError(f"cannot take over {self.output}: {problem.strerror}") from problem

    def has_rows(self) -> bool:
        """Whether there is anything that results of another kind could be mixed with."""
        return any(
            path.exists() and path.stat().st_size > 0 for path in (self.journal, self.output)
        )

    def check(self, known: dict[str, Any], identity: dict[str, Any]) -> None:
        """See that a job may be continued.

        Args:
            known: from `load`.
            identity: from `identity`, of the command at hand.

        Raises:
            JobError: the input, the model or a setting differs; all that do are named.
        """
        begun = f"the job of {self.output} was begun with "
        if known["input"] != identity["input"]:
            raise JobError(
                f"{begun}another content of {self.settings.input} than it has now{AGAIN}"
            )
        if None not in (known["model"], identity["model"]) and known["model"] != identity["model"]:
            names = f"{known['model_name']}, and now is {identity['model_name']}"
            if known["model_name"] == identity["model_name"]:
                names = f"other files of {known['model_name']} than are there now"
            raise JobError(f"{begun}another model: {names}{AGAIN}")
        before, now = _flat(known["settings"]), _flat(identity["settings"])
        told = [
            f"{name.removeprefix('params.')} was {_shown(before.get(name))}"
            f" and is {_shown(now.get(name))}"
            for name in [*before, *(name for name in now if name not in before)]
            if before.get(name) != now.get(name) and not self._may_differ(name, before, now)
        ]
        if told:
            raise JobError(f"{begun}other settings: {', '.join(told)}{AGAIN}")

    def _may_differ(self, name: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
        """Where an expert mask lies changes no row. A higher token limit changes those alone that
        had ended by length, so it may come with a retry of all of these."""
        if name == "expert_mask.file":
            return before.get("expert_mask.sha256") == now.get("expert_mask.sha256")
        if name != "params.max_tokens" or "length" not in self.settings.retry:
            return False
        return now[name] is None or (before[name] is not None and now[name] >= before[name])

    def save(self, identity: dict[str, Any], **more: Any) -> None:
        """Write job.json.

        Raises:
            JobError: it can't be written.
        """
        text = encoded({"format": FORMAT, **identity, **more}, indent=2)
        with replacing(self._file, self.folder / "job.json.draft") as draft:
            draft.write_bytes(text)

    def make_folder(self) -> None:
        """Make the sidecar folder.

        Raises:
            JobError: it can't be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as problem:
            raise JobError(f"cannot make the folder {self.folder}: {problem.strerror}") from problem

    def clear(self) -> None:
        """Drop the results of an earlier job; job.json goes last, when nothing is left to mix.

        Raises:
            JobError: they can't be removed.
        """
        for path in (self.output, self.journal, self._file):
            try:
                path.unlink(missing_ok=True)
            except OSError as problem:
                raise JobError(f"cannot remove {path}: {problem.strerror}") from problem

    def tell(self, take: Callable[[Entry], None]) -> None:
        """Go through the results that are there, and change nothing.

        Raises:
            JobError: the journal is damaged or can't be read.
        """
        for entry in entries(self.journal, self.settings.result_key):
            take(entry)

    def recover(self, take: Callable[[Entry, int], None]) -> tuple[RowSet, int]:
        """Go through the results that are there and stay.

        Rows with a status that is to be retried are taken out of the journal, atomically.

        Args:
            take: is given each result that stays, and the byte of the journal where it then is.

        Returns: the rows that are there, and the bytes of the journal that hold them.

        Raises:
            JobError: the journal is damaged, or can't be read or rewritten.
        """
        retry, key = self.settings.retry, self.settings.result_key
        rows, size, gone = RowSet(), 0, 0
        for entry in entries(self.journal, key):
            if entry.result["status"] in retry:
                gone += 1
                continue
            rows.add(entry.number)
            take(entry, size)
            size += entry.end - entry.start
        if gone:
            self._drop(retry, key)
        return rows, size

    def _drop(self, statuses: tuple[str, ...], key: str) -> None:
        with (
            replacing(self.journal, self.folder / "rows.draft") as draft,
            self.journal.open("rb") as old,
            draft.open("wb") as new,
        ):
            for entry in entries(self.journal, key):
                if entry.result["status"] not in statuses:
                    old.seek(entry.start)
                    new.write(old.read(entry.end - entry.start))


def identity(report: Report, settings: JobSettings) -> dict[str, Any]:
    """What a job is a job of, as it stands in job.json."""
    return {
        "input": report.input_fingerprint,
        "model": report.model_fingerprint,
        "settings": {**settings.described(), "format": report.input_format},
        "input_name": str(settings.input),
        "model_name": settings.model,
    }


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{above}{name}."))
        else:
            flat[above + name] = value
    return flat


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
