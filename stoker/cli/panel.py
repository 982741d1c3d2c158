"""Shows a run while it goes on: a live panel, plain lines, lines of JSON, or nothing.

Knows `Progress` and the terminal; what shows is chosen by `screen`. Called by the commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stoker.report.progress import Progress

BAR = 40  # columns


class Screen(Protocol):
    """Where progress is shown, at least `every` seconds apart."""

    every: float

    def show(self, now: Progress) -> None: ...


class Nothing:
    """--quiet."""

    every = float("inf")

    def show(self, now: Progress) -> None:
        """Shows nothing."""


class Lines:
    """Where there is no terminal: a plain line once in a while."""

    every = 10.0

    def show(self, now: Progress) -> None:
        print(f"stoker: {line(now)}", file=sys.stderr, flush=True)


class JsonLines:
    """--json-progress: an object a line."""

    every = 1.0

    def show(self, now: Progress) -> None:
        say_json("progress", **now.as_json())


def say_json(event: str, **fields: Any) -> None:
    """An object of the JSON progress, on a line of standard error."""
    print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)


class Panel:
    """On a terminal: everything, drawn again a few times a second."""

    every = 0.25

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> Panel:
        self._live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._live.stop()

    def show(self, now: Progress) -> None:
        self._live.update(draw(now), refresh=True)


@contextmanager
def screen(quiet: bool, as_json: bool, lines: bool = False) -> Iterator[Screen]:
    """What shows progress: as the options say, else a panel on a terminal and lines elsewhere.

    With `lines`, also on a terminal, which shows something else beside them.
    """
    if quiet:
        yield Nothing()
    elif as_json:
        yield JsonLines()
    elif sys.stderr.isatty() and not lines:
        with Panel() as panel:
            yield panel
    else:
        yield Lines()


def line(now: Progress) -> str:
    """Progress in a line."""
    parts = [rows(now), speed(now)]
    if now.eta is not None:
        parts.append(f"{clock(now.eta)} left")
    return ", ".join(parts)


def draw(now: Progress) -> RenderableType:
    """Progress as a panel."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=now.total_rows, completed=now.rows, width=BAR),
        rows(now),
        f"{clock(now.elapsed)}, {'…' if now.eta is None else clock(now.eta)} left",
    )
    grid.add_row("rows", bar)
    grid.add_row(
        "status", Text(", ".join(f"{n} {name}" for name, n in now.statuses.items()) or "…")
    )
    grid.add_row("speed", Text(speed(now)))
    grid.add_row("running", Text(f"{now.running}, {now.waiting} waiting"))
    saved = f"{now.saved_tokens:,} prompt tokens saved by shared prefixes"
    grid.add_row("cache", Text(f"{now.cache_use:.0%} in use, {saved}"))
    if now.accuracy is not None:
        grid.add_row("accuracy", Text(f"{now.accuracy:.1%} so far"))
    return grid


def rows(now: Progress) -> str:
    total = "" if now.total_rows is None else f"/{now.total_rows}"
    return f"{now.rows}{total} rows"


def speed(now: Progress) -> str:
    """Tokens per second, lately."""
    return f"{now.prefill_rate:,.0f} prefill + {now.decode_rate:,.0f} decode tokens/s"


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
