"""Each page of docs/decisions has its parts, and stands in the index."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "index.md")
PARTS = ["Decision", "Reason", "Measurement"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_has_its_parts(path):
    text = path.read_text("utf-8")
    assert re.match(r"# .+\n\n\*20\d\d-\d\d-\d\d\*\n\n## Decision\n", text)
    pieces = re.split(r"^## (.*)\n", text, flags=re.M)
    assert pieces[1::2] == PARTS
    assert all(piece.strip() for piece in pieces[2::2])


def test_the_index_lists_each_page_with_its_title_and_date():
    listed = re.findall(
        r"^- (\[.*\]\(.*\.md\), .*)$", (FOLDER / "index.md").read_text("utf-8"), re.M
    )
    expected = []
    for path in PAGES:
        title, date = re.match(r"# (.+)\n\n\*(.+)\*", path.read_text("utf-8")).groups()
        expected.append(f"[{title}]({path.name}), {date}")
    assert sorted(listed) == sorted(expected)
    assert len(listed) > 50
