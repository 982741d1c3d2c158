"""Make the README's pictures: the live panel and the report of a run over the example tasks.

python docs/pictures/make.py --record    run the tasks, and keep in run.json what the pictures show
python docs/pictures/make.py             draw panel.svg and report.png from run.json

The panel is drawn by the code that draws it on a terminal, the report is the page itself, as a
Chromium shows it (`STOKER_CHROMIUM` names the program). So the pictures follow from run.json alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from stoker.cli.panel import draw
from stoker.report.files import fitting, render
from stoker.report.progress import Progress

HERE = Path(__file__).parent
TASKS = HERE.parents[1] / "examples" / "tasks.jsonl"
SHOWN = ["run", "examples/tasks.jsonl", "-o", "results.jsonl", "--expect", "expected"]
SHOWN += ["--group", "skill"]
COLUMNS = 96  # of the terminal
SIZE = (1120, 1050)  # of the report's picture, in pixels: the head of the page
KEPT = 5  # rows of the report's samples, which lie below what the picture shows
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# rich's own format takes a font from a network
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font: {char_height}px Menlo, "DejaVu Sans Mono", Consolas, monospace; }}
.{unique_id}-title {{ font: bold 16px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def record(more: list[str]) -> dict[str, Any]:
    """Run the tasks; returns the state of the panel in mid-run and the figures of the report.

    Args:
        more: further options of `stoker run`.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.jsonl"
        command = [sys.executable, "-m", "stoker.cli.main", *SHOWN, *more, "--json-progress"]
        command[command.index("examples/tasks.jsonl")] = str(TASKS)
        command[command.index("results.jsonl")] = str(output)
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
        events = [json.loads(line) for line in done.stderr.splitlines()]
        figures = json.loads(output.with_name("results.jsonl.report.json").read_text("utf-8"))
    progress = [event for event in events if event.pop("event") == "progress"]
    for name in ("sample", "slowest"):
        figures[name] = figures[name][:KEPT]
    figures["settings"] = {
        name: value for name, value in figures["settings"].items() if str(folder) not in str(value)
    }
    figures["settings"]["input"] = "examples/tasks.jsonl"
    middle = min(progress, key=lambda now: abs(now["rows"] - progress[-1]["total_rows"] * 0.6))
    return {"computing": events[0]["computing"], "progress": middle, "figures": figures}


def panel(run: dict[str, Any]) -> str:
    """The panel in mid-run as an SVG."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Text("$ stoker " + " ".join(SHOWN), style="bold"))
    console.print(Text(f"stoker: loading stoker-tiny, {run['computing']}"))
    console.print(draw(Progress(**run["progress"])))
    picture = console.export_svg(title="stoker run", code_format=SVG, unique_id="panel")
    return "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"


def report(run: dict[str, Any], browser: str, picture: Path) -> None:
    """Let `browser` show the head of the report and write what it shows to `picture`, a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "results.jsonl.report.html"
        page.write_text(render(fitting(run["figures"]), "results.jsonl"), "utf-8")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += [f"--user-data-dir={folder}/profile", "--disable-dev-shm-usage"]
        flags += [f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={picture}"]
        subprocess.run([browser, *flags, page.as_uri()], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="run the tasks anew")
    asked = parser.parse_args()
    kept = HERE / "run.json"
    if asked.record:
        kept.write_text(json.dumps(record([])) + "\n", "utf-8")
    run = json.loads(kept.read_text("utf-8"))
    (HERE / "panel.svg").write_text(panel(run), "utf-8")
    browser = os.environ.get("STOKER_CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), ""
    )
    if not browser:
        sys.exit("panel.svg is drawn; report.png needs a Chromium (STOKER_CHROMIUM names one)")
    report(run, browser, HERE / "report.png")


if __name__ == "__main__":
    main()
