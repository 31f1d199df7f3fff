"""What the tests read out of a Markdown page: its blocks of code, its headings and its links."""

import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(
    r"(?:<!-- not run: *(?P<reason>.*?) *-->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
RUNNABLE = ("python", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block; `reason` says why it is not run, and is None where it is."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(repository: Path, page: str) -> list[Block]:
    """The Python and shell blocks of a page, in order."""
    text = (repository / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("code")), match["language"], match["code"], match["reason"])
        for match in BLOCK.finditer(text)
        if match["language"] in RUNNABLE
    ]


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs name them."""
    headings = re.findall(r"^#+ +(.*)$", BLOCK.sub("", markdown), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


def dead_links(repository: Path, page: str) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of one."""
    markdown = (repository / page).read_text(encoding="utf-8")
    found = []
    for target in LINK.findall(BLOCK.sub("", markdown)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (repository / page).parent / path if path else repository / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            found.append(f"{page} links to {target}")
    return found
