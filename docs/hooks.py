"""What the site of the docs needs beyond MkDocs: decisions in the navigation, and linked sources.

Pages link to files of the repository outside docs/. Such a file gets a page of its own in the site,
under source/, and links lead there:

    docs/internals/blocks.md   [cache_pool.py](../../stoker/engine/blocks/cache_pool.py)
    in the site                [cache_pool.py](../source/stoker/engine/blocks/cache_pool.py.md)
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(\.\.?/[^)#\s]*)((?:#[^)]*)?\))")
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".md": "markdown", ".json": "json"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of decisions into the navigation, by the sections of their index."""
    index = (ROOT / "docs" / "decisions" / "index.md").read_text("utf-8")
    sections: list[dict[str, list[str]]] = []
    for section in re.split(r"^## ", index, flags=re.M)[1:]:
        title, _, body = section.partition("\n")
        sections.append(
            {title: [f"decisions/{name}" for name in re.findall(r"\((\S+\.md)\)", body)]}
        )
    assert config.nav is not None
    (decisions,) = (entry["Decisions"] for entry in config.nav if "Decisions" in entry)
    decisions += sections
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that a page links to."""
    outside = set()
    for page in files.documentation_pages():
        outside |= {path for path in map(_outside, _targets(page)) if path is not None}
    for path in sorted(outside):
        text = (ROOT / path).read_text("utf-8")
        fence = "`" * (3 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
        content = f"# {path}\n\n{fence} {LANGUAGES.get(path.suffix, '')}\n{text}\n{fence}\n"
        files.append(File.generated(config, f"source/{path.as_posix()}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the pages of their files."""
    if page.file.src_uri.startswith("source/"):
        return markdown

    def lead(found: re.Match[str]) -> str:
        path = _outside((page.file.src_uri, found[2]))
        if path is None:
            return found[0]
        here = posixpath.dirname(page.file.src_uri)
        there = posixpath.relpath(f"source/{path.as_posix()}.md", here or ".")
        return f"{found[1]}{there})"

    return LINK.sub(lead, markdown)


def _targets(page: File) -> list[tuple[str, str]]:
    return [(page.src_uri, link[1]) for link in LINK.findall(page.content_string)]


def _outside(link: tuple[str, str]) -> Path | None:
    """The file that a page's link means, from the root; None if it lies in docs/."""
    page, target = link
    path = Path(os.path.normpath(posixpath.join("docs", posixpath.dirname(page), target)))
    return None if path.parts[0] == "docs" else path
