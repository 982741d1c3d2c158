"""`stoker inspect OUT --again ROW`: one row run again, its old and its new answer side by side."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.config import DTYPES, QUANTIZATIONS, SHORT_FORMS
from stoker.errors import ConfigError, InvalidRequestError
from stoker.job.result_texts import as_text

if TYPE_CHECKING:
    from stoker.engine.request.params import SamplingParams
    from stoker.job.rerun import RecordedJob
    from stoker.report.outputs import OutputRow

SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p")
PLACE = ("dtype", "quantization", "device")  # of the job's settings, and what computes
EXPERTS = ("expert_mask", "active_experts")  # of the job's settings, for its own model
OPTIONS = (*SAMPLING, "sampling", "seed", "prompt", "edit", "model", *PLACE, "threads")


def add_again(command: argparse.ArgumentParser) -> None:
    """Add the options that run a row again. None means: as the job had it."""
    add = command.add_argument_group("running a row again").add_argument
    add(
        "--again",
        type=int,
        metavar="ROW",
        help="run the row with this number again, by the job's settings and the options below; "
        "prints both answers and writes no file",
    )
    add("--prompt", metavar="TEMPLATE", help="another prompt, made of the row's columns (Jinja)")
    add("--edit", action="store_true", default=None, help="edit the prompt in $EDITOR first")
    add("--max-tokens", type=int, metavar="N", help="most tokens of the answer")
    add("--temperature", type=float, metavar="T", help="0 takes the likeliest token")
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    add("--top-p", type=float, metavar="P", help="draw from the likeliest that reach P together")
    add("--min-p", type=float, metavar="P", help="draw from those P times as likely as the first")
    add("--sampling", metavar="JSON", help="any sampling parameters, as stoker run takes them")
    add("--seed", type=int, metavar="S", help="another random stream")
    add("-m", "--model", help="another model (default for this and the rest: the job's)")
    add("--dtype", choices=(*DTYPES, *SHORT_FORMS), help="another arithmetic")
    add("--quantization", choices=QUANTIZATIONS, help="other stored weights")
    add("--device", metavar="D", help="cpu or cuda")
    add("--threads", type=int, metavar="N", help="threads of the arithmetic")


def refuse_without_again(args: argparse.Namespace) -> None:
    """Refuse options that only `--again` reads.

    Raises:
        ConfigError: one is given.
    """
    for name in OPTIONS:
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is for a row that is run again; add --again ROW")


def again(args: argparse.Namespace, path: Path, old: OutputRow) -> None:
    """Run `old`, a row of the output `path`, again and print both results.

    Raises:
        StokerError: the job's settings or its model are not there, or a change is not possible.
    """
    if args.prompt is not None and args.edit:
        raise ConfigError("--prompt and --edit are two prompts; leave one out")
    from stoker.job.rerun import (
        changed_params,
        input_row,
        prompt_text,
        recorded_job,
        run_again,
        with_prompt,
    )
    from stoker.job.template import Template

    job = recorded_job(path)
    settings, changes = job.settings, _changes(args)
    row = input_row(job, old.number, old.fields)
    before, after = changed_params(settings, row, changes)
    lines = [f"row {old.number}"]
    text = None
    if args.prompt is not None:
        text = Template(args.prompt, "--prompt").render(row.fields)
    elif args.edit:
        text = _edited(prompt_text(settings, row))
    try:
        lines += _indented("prompt", prompt_text(settings, row))
    except InvalidRequestError as problem:
        lines += _indented("prompt", f"none: {problem}")
    if text is not None:
        lines += _indented("edited", text)
        settings, row = with_prompt(settings, row, text)
    model = args.model or settings.model
    if model is None:
        raise ConfigError(f"the settings of {path} name no model; give one with -m")
    place = {name: getattr(args, name) or getattr(settings, name) for name in PLACE}
    same = settings.model in (None, model)
    place |= {name: getattr(settings, name) if same else None for name in EXPERTS}
    new_settings = replace(
        settings,
        model=model,
        seed=settings.seed if args.seed is None else args.seed,
        **place,
    )
    told = _differences(before, after, settings, new_settings)
    told += _other_files(job, model)
    lines += _indented("changed", "\n".join(told) or ("nothing else" if text else "nothing"))
    from stoker.llm.llm import LLM

    print(f"stoker: loading {model}", file=sys.stderr)
    options = {**place, "kv_dtype": settings.kv_dtype, "threads": args.threads}
    with LLM(model, seed=new_settings.seed, **options) as llm:
        new = run_again(llm, new_settings, row, changes)
    print("\n".join([*lines, *_side_by_side(old, new)]))


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters that the options give."""
    from stoker.job.overrides import as_object

    changes = {} if args.sampling is None else as_object(args.sampling, "--sampling")
    for name in SAMPLING:
        if getattr(args, name) is not None:
            if name in changes:
                raise ConfigError(f"--{name.replace('_', '-')} is in --sampling too; give it once")
            changes[name] = getattr(args, name)
    return changes


def _differences(before: SamplingParams, after: SamplingParams, old: Any, new: Any) -> list[str]:
    """What differs from the job, a line each: `temperature 0.0 -> 0.8`."""
    pairs = [(name, value, getattr(after, name)) for name, value in vars(before).items()]
    names = ("seed", "model", *PLACE, *EXPERTS)
    pairs += [(name, getattr(old, name), getattr(new, name)) for name in names]
    return [f"{name} {a} -> {b}" for name, a, b in pairs if a != b]


def _other_files(job: RecordedJob, model: str) -> list[str]:
    """Says so if the job's model, or its expert mask, has been replaced since."""
    from stoker.job.fingerprint import model_fingerprint
    from stoker.job.settings import mask_digest
    from stoker.model.checkpoint import resolve_folder

    if model != job.settings.model:
        return []
    told, mask = [], job.settings.expert_mask
    before = job.model_fingerprint
    if before is not None and model_fingerprint(resolve_folder(model)) != before:
        told.append(f"the files of {model}, which are others than the job had")
    if mask is not None and mask_digest(mask) != job.mask_digest:
        told.append(f"the expert mask {mask}, which is another than the job had")
    return told


def _edited(text: str) -> str:
    """The text as the user leaves it in an editor.

    Raises:
        ConfigError: there is no editor, or it failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="stoker-") as folder:
        file = Path(folder) / "prompt.txt"
        file.write_text(text + "\n", "utf-8")
        try:
            done = subprocess.run([*shlex.split(editor), str(file)], check=False)
        except OSError as problem:
            raise ConfigError(
                f"--edit: cannot start {editor!r}: {problem.strerror}; set EDITOR, or give the "
                "prompt with --prompt"
            ) from None
        if done.returncode:
            raise ConfigError(f"--edit: {editor!r} ended with code {done.returncode}")
        edited = file.read_text("utf-8-sig").removesuffix("\n")  # the one that was added
    if not edited.strip():
        raise ConfigError("--edit: the prompt was left empty, so nothing was run")
    return edited


def _indented(title: str, text: str) -> list[str]:
    """The text under a title, all of it, without control characters that could move the cursor."""
    first, *rest = _lines(text) or [""]
    return [f"  {title:<8}{first}", *(f"{'':10}{line}" for line in rest)]


def _lines(text: str) -> list[str]:
    return ["".join(x if x.isprintable() else " " for x in line) for line in text.splitlines()]


def _side_by_side(old: OutputRow, new: dict[str, Any]) -> list[str]:
    """Two columns: status, length and answer of each."""
    width = max(20, (shutil.get_terminal_size((100, 24)).columns - 5) // 2)
    columns = []
    texts = [as_text(old.fields, old.result), as_text({}, new)]
    for title, result, text in zip(("old", "new"), (old.result, new), texts, strict=True):
        tokens = result.get("output_tokens")
        head = f"{title}: {result['status']}" + ("" if tokens is None else f", {tokens} tokens")
        told = text if text is not None else result.get("error", "")
        folded = [textwrap.wrap(line, width) or [""] for line in _lines(str(told))]
        columns.append([head, "", *(part for parts in folded for part in parts)])
    both = zip_longest(*columns, fillvalue="")
    lines = ["", *(f"  {a:<{width}} | {b}".rstrip() for a, b in both), ""]
    same = texts[0] == texts[1] and old.result["status"] == new["status"]
    return [*lines, f"answers   {'the same' if same else 'differ'}"]


def find_row(path: Path, number: int, key: str) -> OutputRow:
    """The row of an output with this number.

    Raises:
        ConfigError: there is none.
    """
    from stoker.report.outputs import read_output

    count, least, most = 0, number, number
    for row in read_output(path, key):
        if row.number == number:
            return row
        least, most = (
            (min(least, row.number), max(most, row.number)) if count else (row.number,) * 2
        )
        count += 1
    have = f"its {count} rows have numbers from {least} to {most}" if count else "it has no rows"
    raise ConfigError(f"--again {number}: {path} has no such row; {have}")
