import pytest
from jinja2 import UndefinedError
from markdown_it import MarkdownIt

from textfiles.markdown import counted, escaped, literal, one_line, render_page, share, table

HOSTILE = [
    "<script>alert(1)</script>",
    "![seen](https://example.com/pixel.png)",
    "[press](https://example.com) <https://example.com> https://example.com www.example.com",
    "a | b\n\n# heading\n\n- item\n\n```\ncode",
    "\\`x` \\\\<b>bold</b> **strong** _em_ ~~gone~~ &lt;img src=x&gt; $x$",
]


def rendered(page):
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_itself_in_a_line_and_in_a_cell(text):
    shown = " ".join(text.split())
    plain = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert rendered(f"Text: {escaped(text)}") == f"<p>Text: {plain}</p>\n"
    for cell in escaped(text), literal(shown):
        html = rendered(table(["a", "b"], [[cell, "1"]], numbers=1))
        assert plain in html and html.count("<td") == 2
        assert not any(tag in html for tag in ("<a", "<img", "<script", "<b>", "<em>", "<h1"))


def test_an_address_is_no_link_where_renderers_link_bare_ones():
    assert escaped("https://example.com at www.example.com") == r"https\://example.com at www\.example.com"


def test_a_template_makes_the_page_and_an_unknown_name_is_an_error(tmp_path):
    template = tmp_path / "page.md.jinja"
    template.write_text(
        "# {{ name | escaped }}\n\n{% for n in counts %}\n- {{ n | number }} {{ n | twice }}\n{% endfor %}\n\n\n"
    )
    filters = {"twice": lambda value: 2 * value}
    assert (
        render_page(template, {"name": "<b>", "counts": [1000, 2]}, filters) == "# &lt;b&gt;\n\n- 1,000 2000\n- 2 4\n"
    )
    with pytest.raises(UndefinedError, match="counts"):
        render_page(template, {"name": "x"}, filters)


def test_a_cut_text_says_how_long_it_was():
    assert one_line("a\n b\u2028c") == "a b c" and one_line("abc", 3) == "abc"
    assert one_line("x" * 2000, 3) == "xxx ... (2,000 characters)"


def test_one_thing_is_not_counted_as_several():
    assert [counted(n, "row") for n in (0, 1, 2, 12_345)] == ["0 rows", "1 row", "2 rows", "12,345 rows"]


def test_a_share_is_never_rounded_to_all_or_nothing():
    assert [share(n, 10_000) for n in (0, 1, 10, 5_000, 9_999, 10_000)] == [
        "0.0%",
        "<0.1%",
        "0.1%",
        "50.0%",
        "99.9%",
        "100.0%",
    ]
    assert share(0, 0) == "0.0%"
