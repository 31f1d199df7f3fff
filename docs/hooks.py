"""MkDocs hooks: the README becomes a page, and links to files outside docs/ become plain text if the file exists."""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parent.parent
README_PAGE = "overview.md"
_FENCE = re.compile(r"^\s*(```|~~~)")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Add every page of results/ to the navigation, so that a new finding needs no change of mkdocs.yml."""
    (pages,) = (section["Results"] for section in config.nav if "Results" in section)
    results = REPOSITORY / "docs" / "results"
    pages.extend(f"results/{page.name}" for page in sorted(results.glob("*.md")) if page.name != "README.md")
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add README.md to the site: it lies outside docs/."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, README_PAGE, content=_rewrite_links(readme, "README.md", README_PAGE)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page that lies in docs/."""
    if page.file.src_uri == README_PAGE:
        return markdown
    return _rewrite_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _rewrite_links(markdown: str, source: str, page: str) -> str:
    """Links relative to `source` in the repository -> links relative to `page` in docs/. Code blocks stay."""
    lines, fenced = [], False
    for line in markdown.splitlines():
        fenced ^= bool(_FENCE.match(line))
        lines.append(line if fenced else _LINK.sub(_link_rewriter(source, page), line))
    return "\n".join(lines) + "\n"


def _link_rewriter(source: str, page: str) -> Callable[[re.Match], str]:
    def rewrite(link: re.Match) -> str:
        image, text, target = link.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if found == "README.md":
            found = f"docs/{README_PAGE}"
        elif not found.startswith("docs/"):
            # The site has no such page. A file that does not exist either stays a link: strict mode reports it.
            return text if (REPOSITORY / found).exists() else link[0]
        relative = posixpath.relpath(found.removeprefix("docs/"), posixpath.dirname(page) or ".")
        return f"{image}[{text}]({relative}{'#' * bool(anchor)}{anchor})"

    return rewrite
