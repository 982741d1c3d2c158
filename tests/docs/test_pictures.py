"""The README's pictures show what docs/pictures/run.json records, drawn by the code of today."""

import html
import json
import re
import runpy
import struct
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
RUN = json.loads((FOLDER / "run.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def make():
    return runpy.run_path(str(FOLDER / "make.py"))


def words(svg):
    """The texts of a picture, without the marks around them."""
    text = html.unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)))
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_panel_is_that_of_the_recorded_run(make):
    kept = (FOLDER / "panel.svg").read_text("utf-8")
    assert words(kept) == words(make["panel"](RUN))
    assert f"{RUN['progress']['rows']}/1000 rows" in words(kept)
    assert "http" not in kept.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched
    assert len(kept) < 20_000


def test_the_report_is_a_picture_of_the_right_size(make):
    picture = (FOLDER / "report.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == make["SIZE"]
    assert len(picture) < 200_000


def test_a_run_is_recorded(make):
    """On a few rows; the result can be drawn, and names no place of this machine."""
    run = make["record"](["--limit", "12"])
    assert run["figures"]["rows"] == {"total": 12, "written": 12, "statuses": {"done": 12}}
    assert run.keys() == RUN.keys()
    assert run["figures"].keys() == RUN["figures"].keys()
    assert "/12 rows" in words(make["panel"](run))
    assert "/tmp" not in json.dumps(run)
