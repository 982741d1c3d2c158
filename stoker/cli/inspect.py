"""`stoker inspect`: an earlier run looked at again from its files, or two runs side by side."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.cli.again import add_again, again, find_row, refuse_without_again
from stoker.cli.progress_options import add_expect, expect_of
from stoker.cli.row_filters import RowFilter, add_filters
from stoker.errors import ConfigError
from stoker.job.expect import Accuracy, Expect

if TYPE_CHECKING:
    from stoker.report.outputs import OutputRow

TEXT = 160  # characters of a text that are printed


def add_inspect(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `inspect`."""
    add = command.add_argument
    add("output", metavar="OUT", help="what stoker run or stoker embed wrote")
    add(
        "other", metavar="OTHER", nargs="?", help="another run over the same input, to compare with"
    )
    add("--html", action="store_true", help="write OUT.report.html and OUT.report.json anew")
    add(
        "--rows",
        metavar="STATUS",
        nargs="?",
        const="",
        help="print rows of this status (several with commas between; without one, of any)",
    )
    add("--limit", type=int, default=20, metavar="N", help="rows printed (default: %(default)s)")
    add(
        "--result-key",
        metavar="NAME",
        help="the column that holds the results (default: what the report beside OUT says, else "
        "result)",
    )
    add_filters(command)
    add_expect(command)
    add_again(command)
    add("--debug", action="store_true", help="show tracebacks of errors")


def inspect(args: argparse.Namespace) -> int:
    """Print what the arguments ask for. Returns the exit code, 0."""
    expect = expect_of(args)
    path = Path(args.output)
    if args.limit < 0:
        raise ConfigError(f"--limit must be 0 or more, not {args.limit}")
    chosen = args.where or args.match is not None or args.wrong
    if args.again is not None:
        if args.other is not None or args.html or args.rows is not None or chosen:
            raise ConfigError("--again runs one row; leave out what lists, filters or compares")
        again(args, path, find_row(path, args.again, _key(args, path)))
        return 0
    refuse_without_again(args)
    if args.other is not None:
        if args.html or args.rows is not None or chosen:
            raise ConfigError(
                "--html, --rows and filters of rows are for one run; leave out the second"
            )
        _print_comparison(args, path, Path(args.other), expect)
        return 0
    if args.html and chosen:
        raise ConfigError("--html writes the report of all rows; leave out what filters them")
    expect = _expected(path, expect)
    if args.rows is not None:
        for line in islice(_listed(args, path, expect), args.limit):
            print(line)
    else:
        _print_summary(args, path, expect)
    return 0


def _expected(path: Path, expect: Expect | None) -> Expect | None:
    """What answers are compared with: as the options say, else as the run did."""
    from stoker.report.files import read_figures

    before = (read_figures(path) or {}).get("accuracy")
    if expect is None and before:
        return Expect(*(before[name] for name in ("column", "mode", "group")))
    return expect


def _print_summary(args: argparse.Namespace, path: Path, expect: Expect | None) -> None:
    from stoker.job.prompt_preview import PromptText
    from stoker.job.report import Report
    from stoker.report.files import page_path, read_figures, write_report
    from stoker.report.outputs import read_output
    from stoker.report.recorder import Recorder

    before = read_figures(path) or {}
    settings = before.get("settings", {})
    seed = settings.get("seed", 0)
    report = Report(0, accuracy=Accuracy(expect) if expect else None)
    recorder = Recorder(report, settings, seed if isinstance(seed, int) else 0)
    pooled = False
    chosen = RowFilter(args, expect, PromptText(settings.get("template")))
    for row in chosen(read_output(path, _key(args, path))):
        pooled = pooled or "embedding" in row.result
        report.add(row.fields, row.result)
    report.pooled = pooled
    report.total_rows = max(report.rows, before.get("rows", {}).get("total") or 0)
    report.seconds = 0.0
    if not chosen.active:  # of the whole run, and not in the result: as recorded meanwhile
        report.seconds = before.get("seconds", 0.0)
        tokens = before.get("tokens", {})
        report.cached_tokens = report.cached_tokens or tokens.get("cached", 0)
    lines = [line for line in report.lines() if report.seconds or not line.startswith("speed")]
    if "state_bytes" in settings:
        lines.append(
            f"states    {settings['state_bytes']:,} bytes for each sequence, room for "
            f"{settings['num_snapshots']:,} snapshots"
        )
    print("\n".join([*lines, f"results   {path}"]))
    if args.html:
        series = before.get("series", recorder.series.as_json())
        begun = before.get("begun") or _written(path)
        figures = recorder.figures() | {"series": series, "begun": begun}
        figures["slowest"] = figures["slowest"] or before.get("slowest", [])
        print(f"report    {write_report(path, figures)}")
    elif page_path(path).exists():
        print(f"report    {page_path(path)}")
    else:
        print("report    none; --html writes one")


def _settings(path: Path) -> dict[str, Any]:
    """The run's settings, as the figures beside the output have them; none without these."""
    from stoker.report.files import read_figures

    found: dict[str, Any] = (read_figures(path) or {}).get("settings", {})
    return found


def _key(args: argparse.Namespace, path: Path) -> str:
    """The column that holds the results."""
    from stoker.job.report import RESULT

    return str(args.result_key or _settings(path).get("result_key", RESULT))


def _written(path: Path) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))


def _listed(args: argparse.Namespace, path: Path, expect: Expect | None) -> Iterator[str]:
    """A few lines for each row that is chosen."""
    from stoker.job.prompt_preview import PromptText
    from stoker.report.outputs import read_output

    prompt_of = PromptText(_settings(path).get("template"))
    chosen = RowFilter(args, expect, prompt_of)
    for row in chosen(read_output(path, _key(args, path))):
        lines = [f"row {row.number}  {row.result['status']}"]
        lines.append(f"  prompt  {_short(prompt_of(row.fields))}")
        lines += _answered("", row)
        if expect is not None and row.fields.get(expect.column) is not None:
            lines.append(f"  expect  {_short(str(row.fields[expect.column]))}")
        yield "\n".join(lines)


def _answered(name: str, row: OutputRow) -> list[str]:
    """The lines of a result: its answers, its error, or what there is of an embedding."""
    from stoker.job.result_texts import as_text

    lines, result = [], row.result
    told = {name or "answer": as_text(row.fields, result)}
    for title, text in {**told, f"{name} error".strip(): result.get("error")}.items():
        if text is not None:
            lines.append(f"  {title:<7} {_short(str(text))}")
    if "embedding" in result:
        vector = result["embedding"]
        lines.append(f"  {name or 'vector':<7} {len(vector)} numbers, {str(vector[:4])[1:-1]}, …")
    return lines


def _short(text: str) -> str:
    """Put a text on one line, without control characters that could move the cursor."""
    text = "".join(one if one.isprintable() else " " for one in text[: 4 * TEXT])
    text = " ".join(text.split())
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"


def _print_comparison(args: argparse.Namespace, a: Path, b: Path, expect: Expect | None) -> None:
    from stoker.job.prompt_preview import PromptText
    from stoker.report.compare import Comparison, compare

    prompt_of = PromptText(_settings(a).get("template"))
    totals = Comparison()
    differing = compare(a, b, totals, expect, (_key(args, a), _key(args, b)))
    for row, other in islice(differing, args.limit):
        old, new = row.result["status"], other.result["status"]
        print(f"row {row.number}  {old}" + ("" if old == new else f" -> {new}"))
        print(f"  prompt  {_short(prompt_of(row.fields))}")
        print("\n".join([*_answered("A", row), *_answered("B", other)]))
    deque(differing, maxlen=0)  # the rest is only counted
    changed = totals.both - totals.same
    if min(changed, args.limit):
        print()
    if changed > args.limit:
        print(f"({changed - args.limit} more rows changed; --limit prints more)\n")
    print(f"A         {a}\nB         {b}")
    print(f"agreement {totals.agreement:.1%} ({totals.same} of {totals.both} rows the same)")
    for name, count in (("A", totals.only_a), ("B", totals.only_b)):
        if count:
            print(f"only in {name} {count} rows")
    if totals.other_input:
        print(f"inputs    differ in {totals.other_input} rows; is it the same file?")
    for (old, new), count in totals.statuses.most_common():
        print(f"status    {old} -> {new}: {count}")
    for name, accuracy in zip("AB", totals.accuracy or (), strict=False):
        print(f"run {name}\n" + "\n".join(f"  {line}" for line in accuracy.lines()))
