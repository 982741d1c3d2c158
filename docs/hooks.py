"""What the site of the docs needs beyond MkDocs: decisions in the navigation, and linked files.

Pages link to files of the repository outside docs/. Such a file gets a page of its own in the site,
under source/, and links lead there; pages of Markdown are pages, other files are shown as they are:

    docs/internals/blocks.md   [cache_pool.py](../../stoker/engine/blocks/cache_pool.py)
    in the site                [cache_pool.py](../source/stoker/engine/blocks/cache_pool.py.md)
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".json": "json"}
LINES = 500  # of a file that is no page, at most


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of decisions into the navigation, by the sections of their index."""
    index = (ROOT / "docs" / "decisions" / "index.md").read_text("utf-8")
    sections: list[dict[str, list[str]]] = []
    for section in re.split(r"^## ", index, flags=re.M)[1:]:
        title, _, body = section.partition("\n")
        pages = re.findall(r"\((\S+\.md)\), ", body)
        sections.append({title: [f"decisions/{name}" for name in pages]})
    assert config.nav is not None
    (decisions,) = (entry["Decisions"] for entry in config.nav if "Decisions" in entry)
    decisions += sections
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that a page links to, those pages included."""
    todo = [(f"docs/{page.src_uri}", page.content_string) for page in files.documentation_pages()]
    done = set()
    while todo:
        path, text = todo.pop()
        for link in LINK.findall(text):
            target = _target(path, link[1])
            if target in done or target.startswith("docs/") or not (ROOT / target).is_file():
                continue
            done.add(target)
            content = (ROOT / target).read_text("utf-8")
            if target.endswith(".md"):
                todo.append((target, content))
            else:
                content = _shown(target, content)
            files.append(File.generated(config, _page(target), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the pages of their files, and theirs back into docs/."""
    here = page.file.src_uri
    path = here.removeprefix("source/") if here.startswith("source/") else f"docs/{here}"

    def lead(link: re.Match[str]) -> str:
        target = _target(path, link[2])
        there = _page(target)
        if files.get_file_from_path(there) is None:
            return link[0]
        anchor = link[3] if target.endswith(".md") else ")"
        return f"{link[1]}{posixpath.relpath(there, posixpath.dirname(here) or '.')}{anchor}"

    is_page = (ROOT / path).is_file()  # and not the page of another file
    return LINK.sub(lead, markdown) if is_page else markdown


def _target(page: str, link: str) -> str:
    """The file that a link of a page means, from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _page(path: str) -> str:
    """Where a file of the repository has its page in the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def _shown(path: str, text: str) -> str:
    """A page with the text of a file, or its beginning."""
    lines = text.splitlines()
    rest = f"\n({len(lines) - LINES} lines more)\n" if len(lines) > LINES else ""
    fence = "`" * (3 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
    language = LANGUAGES.get(Path(path).suffix, "")
    body = "\n".join(lines[:LINES])
    return f"# {path}\n\n{fence} {language}\n{body}\n{fence}\n{rest}"
