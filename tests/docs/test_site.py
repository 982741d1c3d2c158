"""MkDocs makes a site of docs/ without a warning, with every page in it and in its navigation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site is made by the extra `docs`")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_in_the_navigation(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).with_suffix(".html").is_file() for page in pages)
    navigation = (site / "index.html").read_text("utf-8").split('role="main"')[0]
    linked = set(re.findall(r'href="([^"#]+\.html)', navigation))
    assert {page.with_suffix(".html").as_posix() for page in pages} <= linked


def test_linked_files_of_the_repository_have_pages(site):
    (link,) = set(re.findall(r'href="([^"]*groups\.py[^"]*)"', page(site, "internals/blocks.html")))
    text = (site / "internals" / link).resolve().read_text("utf-8")
    assert "class WindowPolicy" in text


def test_links_and_pictures_of_the_site_lead_to_its_files(site):
    for path in site.rglob("*.html"):
        if path.name == "404.html" or re.search(r"\.\w+\.html$", path.name):
            continue  # found from anywhere; the page of a file that is no page itself
        text = re.sub(r"<pre>.*?</pre>", "", path.read_text("utf-8"), flags=re.S)
        found = re.findall(r'(?:href|src)="([^"#]+)', text)
        local = [link for link in found if not re.match(r"[a-z]+:|//", link)]
        assert [link for link in local if not (path.parent / link).exists()] == []


def page(site, name):
    return (site / name).read_text("utf-8")
