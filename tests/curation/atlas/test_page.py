"""The page by itself: complete, closed to the network, the same again, and blind to markup in the data."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="needs the extra: pip install -e '.[map]'")

from bokeh.models import Plot

from curation.atlas.page import write_page
from curation.atlas.points import Points

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '" onmouseover="window.hacked = 1" \' `${window.hacked = 1}` {{ 7 * 7 }} @text',
    "lines\u2028and\u2029others, \x00, <!-- <script>, ]]>, \U0001f41f",
]


class Elements(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self, page):
        super().__init__()
        self.found, self.scripts, self.open = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

        self.open = tag
        if tag == "script":
            self.scripts.append([dict(attributes), ""])

    def handle_data(self, data):
        if self.open == "script":
            self.scripts[-1][1] += data

    def handle_endtag(self, tag):
        self.open = None


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    points = Points(HOSTILE, dict.fromkeys(HOSTILE, HOSTILE[::-1]), np.array([[0, 1], [1, 2]]))
    texts = {key: f"{key} {HOSTILE[1]}" for key in ("title", "subtitle", "footer")}
    write_page(path, points, np.arange(10.0).reshape(5, 2), **texts)
    return path.read_text(encoding="utf-8")


def test_no_markup_of_the_data_is_in_the_page(page):
    elements = Elements(page)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 6 and "img" not in tags  # two of data, three of Bokeh, and the page's own
    assert not any(key.startswith("on") for _, attributes in elements.found for key in attributes)
    facts, plot = (json.loads(text) for attributes, text in elements.scripts if "type" in attributes)
    assert [column["name"] for column in facts["columns"]] == HOSTILE
    assert [text for text in HOSTILE if json.dumps(text)[1:-1] not in json.dumps(plot)] == []


def test_the_page_needs_nothing_else_and_may_fetch_nothing(page):
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert not {"src", "href", "srcset", "action", "data"} & attributes.keys(), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base")
    assert "url(" not in page[: page.index("</style>")] and "@import" not in page[: page.index("</style>")]
    (policy,) = (a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"  # and so no connection, font or frame
    scripts = [text for attributes, text in elements.scripts if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert rules["script-src"].split() == [f"'sha256-{found}'" for found in hashes]


def write_small(path):
    points = Points(["a", "b"], {"kind": ["x", "y"], "n": [1.0, None]}, np.array([[0, 1]]))
    write_page(Path(path), points, np.eye(2), title="T", subtitle="S", footer="F")


def test_the_same_arguments_give_the_same_bytes(tmp_path, repository):
    """In another process, with other hashes of texts, and after other models of Bokeh."""
    program = "import sys; from tests.curation.atlas.test_page import write_small; write_small(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, str(tmp_path / "there")]
    subprocess.run(command, cwd=repository, env=environment, check=True)
    Plot()
    write_small(tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
