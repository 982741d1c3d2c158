"""Relative links of the Markdown pages lead to files and headings that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").glob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        *(ROOT / "recipes").rglob("*.md"),
    ]
)
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def links(text):
    """The targets of a page's links and pictures, those of other sites left out."""
    prose = re.sub(r"`[^`\n]*`", "`", FENCE.sub("", text))
    found = [a or b for a, b in LINK.findall(prose)]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text):
    """The headings of a page as GitHub names them: `## A pool, of 3!` is `a-pool-of-3`."""
    names, seen = set(), {}
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        count = seen[name] = seen.get(name, -1) + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def problems(page, text):
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if path and not target.exists():
            yield f"{link}: there is no {path}"
        elif anchor and anchor not in anchors(
            text if target == page else target.read_text("utf-8")
        ):
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert list(problems(page, page.read_text("utf-8"))) == []


def test_what_is_told():
    page = ROOT / "docs" / "none.md"
    good = "[a](jobs.md) [b](../README.md#stoker) [c](#a-b-1) ![d](index.md)\n# A b\n# A `b`\n"
    assert list(problems(page, good)) == []
    assert list(problems(page, "`[a](none)` [a](https://example.org)\n```\n[a](none)\n```\n")) == []
    bad = '[a](no.md) [b](jobs.md#no) <img src="no.svg">'
    assert [problem.split(":")[0] for problem in problems(page, bad)] == [
        "no.md",
        "jobs.md#no",
        "no.svg",
    ]


def test_every_page_of_the_docs_can_be_reached():
    """Following links from docs/index.md leads to each of them."""
    start = ROOT / "docs" / "index.md"
    reached, todo = {start}, [start]
    while todo:
        page = todo.pop()
        for link in links(page.read_text("utf-8")):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target not in reached and target.is_file():
                reached.add(target)
                todo.append(target)
    assert {*(ROOT / "docs").rglob("*.md")} <= reached
