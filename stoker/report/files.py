"""Writes a run's report beside its output: one page that opens without network, and the figures.

    OUT.report.html     style, script and data inlined
    OUT.report.json     the same data

Knows the figures as plain data; called by the command line.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from stoker.errors import JobError
from stoker.report.sample import shorten

LARGEST = 3_500_000  # bytes of data in the page; longer texts are cut until it fits
CUTS = (2000, 1000, 500, 250, 120, 60)  # characters of a text, tried in turn
SURROGATE = re.compile("[\ud800-\udfff]")


def page_path(output: Path) -> Path:
    return output.with_name(output.name + ".report.html")


def figures_path(output: Path) -> Path:
    return output.with_name(output.name + ".report.json")


def write_report(output: Path, figures: dict[str, Any]) -> Path:
    """Write page and figures beside `output`; returns the page's path.

    Raises:
        JobError: they can't be written.
    """
    data = fitting(figures)
    try:
        _replace(figures_path(output), data + "\n")
        _replace(page_path(output), render(data, output.name))
    except OSError as problem:
        raise JobError(
            f"cannot write the report beside {output}: {problem.strerror}; "
            "--no-report leaves it out"
        ) from problem
    return page_path(output)


def read_figures(output: Path) -> dict[str, Any] | None:
    """The figures beside `output`, None if there are none that can be read."""
    try:
        found = json.loads(figures_path(output).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == 1 else None


def render(data: str, title: str) -> str:
    """The page around the figures, which come from `fitting`.

    No text of a row becomes markup: all of it is in a block of JSON, which the script reads and
    shows as text, and no script but that one may run (Content-Security-Policy).
    """
    folder = files("stoker.report").joinpath("page")
    script = folder.joinpath("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "TITLE": title_text(title),
        "SCRIPT_HASH": digest,
        "STYLE": folder.joinpath("page.css").read_text("utf-8"),
        "DATA": data,
        "SCRIPT": script,
    }
    template = folder.joinpath("page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def fitting(figures: dict[str, Any]) -> str:
    """The figures as JSON, with texts cut and rows left out until they are small enough."""
    data = safe_json(figures)
    if len(data.encode()) <= LARGEST:
        return data
    smaller = copy.deepcopy(figures)
    for limit in CUTS:
        for entry in [*smaller["sample"], *smaller["slowest"]]:
            shorten(entry, limit)
        data = safe_json(smaller)
        if len(data.encode()) <= LARGEST:
            return data
    while len(data.encode()) > LARGEST and smaller["sample"]:
        smaller["sample"] = smaller["sample"][1::2]
        data = safe_json(smaller)
    return data


def safe_json(value: Any) -> str:
    """JSON that may stand inside a script element, and in UTF-8: nothing in it ends the element,
    opens a comment, ends a line, or is half a character."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    for one in "<>&\u2028\u2029":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def title_text(text: str) -> str:
    """A text for the page's title."""
    text = SURROGATE.sub("�", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _replace(path: Path, text: str) -> None:
    """Write a whole file or leave the old one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
