import importlib
import inspect
import sysconfig
import textwrap

import pytest
from tqdm.std import tqdm

from recipes.quickstart_text.docstrings import docstring_pairs, read_docstrings

MODULE = '''
    """Module summary.

    Module body."""
    # -*- a comment -*-
    raise ImportError("importing this package would fail")

    class Thing:
        r"""Summary over
        two lines.

            Indented \\d body.

        More."""

        def method(self):
            """Method summary."""
            def inner():
                """Inner summary."""

        async def later(self): "A single quoted docstring."

    if True:
        try:
            def conditional():
                """Conditional summary."""
        except ValueError:
            pass
    "not a docstring"
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution "Sample-Dist" with the package `sample_pkg` in a folder of its own."""
    files = {
        "sample_pkg/__init__.py": "",
        "sample_pkg/core.py": textwrap.dedent(MODULE),
        "sample_pkg/surrogate.py": '"""Half a pair: \\ud800."""',
        "sample_pkg/broken.py": '"""Broken."""\ndef (',
        "sample_pkg/escape.py": '"""Invalid \\d escape."""',
        "sample_pkg/tests/test_core.py": '"""A test."""',
        "sample_pkg/_vendor/copy.py": '"""A copy."""',
        "../outside.py": '"""Outside."""',
    }
    for name, text in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    info = tmp_path / "site" / "Sample_Dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Sample-Dist\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, "sample_pkg/gone.py"]))
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()


@pytest.mark.parametrize("name", ["sample_pkg", "sample.dist"])
@pytest.mark.filterwarnings("error")
def test_documentation_is_read_without_importing(installed, name):
    records = read_docstrings([name], num_processes=1)
    assert {record["name"]: record["summary"] for record in records} == {
        "sample_pkg.core": "Module summary.",
        "sample_pkg.core.Thing": "Summary over two lines.",
        "sample_pkg.core.Thing.method": "Method summary.",
        "sample_pkg.core.Thing.method.inner": "Inner summary.",
        "sample_pkg.core.Thing.later": "A single quoted docstring.",
        "sample_pkg.core.conditional": "Conditional summary.",
        "sample_pkg.escape": "Invalid \\d escape.",
        "sample_pkg.surrogate": "Half a pair: ?.",
    }
    thing = next(record for record in records if record["name"] == "sample_pkg.core.Thing")
    assert thing["body"] == "    Indented \\d body.\n\nMore."
    assert thing["text"] == "Summary over\ntwo lines.\n\n    Indented \\d body.\n\nMore."
    assert thing["package"] == "sample_pkg"


def test_records_of_a_real_package_agree_with_the_imported_objects_whatever_the_processes():
    records = read_docstrings(["tqdm", "packaging"], num_processes=1)
    assert records == read_docstrings(["packaging", "tqdm"], num_processes=3)
    texts = {record["name"]: record["text"] for record in records}
    assert texts["tqdm.std.tqdm"] == inspect.getdoc(tqdm)
    assert texts["tqdm.std.tqdm.set_postfix"] == inspect.getdoc(tqdm.set_postfix)
    assert {record["package"] for record in records} == {"tqdm", "packaging"}


def test_the_standard_library_is_one_package_without_what_is_installed_beside_it(tmp_path, monkeypatch):
    for name in ("json/__init__.py", "json/decoder.py", "site-packages/other.py", "test/support.py", "unknown.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'"""Text of {name}."""')
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    records = read_docstrings(["stdlib", "packaging"], num_processes=1)
    texts = {record["name"]: record["text"] for record in records if record["package"] == "stdlib"}
    expected = {"stdlib.json": "Text of json/__init__.py.", "stdlib.json.decoder": "Text of json/decoder.py."}
    assert texts == expected
    assert {record["package"] for record in records} == {"stdlib", "packaging"}


def test_an_unknown_package_is_named():
    with pytest.raises(ValueError, match="no-such-package"):
        read_docstrings(["tqdm", "no-such-package"], num_processes=1)


def record(summary, body="A body that is long enough to say something.", package="p", name="p.f"):
    return {"package": package, "name": name, "summary": summary, "body": body, "text": f"{summary}\n\n{body}"}


def test_pairs_leave_out_what_no_retriever_could_use():
    kept = record("Solve a banded system.")
    spam = [
        record("See the base class.", f"{place}: a body that is more than long enough to count.") for place in "abcd"
    ]
    left_out = [
        record("Two words"),
        record("A summary with a short body.", "Short."),
        record(">>> import this and that"),
        record("word " * 100),
        record("Solve a banded system.", name="p.copy"),
        *spam,
    ]
    other_package = record("Solve a banded system.", package="q")
    pairs = docstring_pairs([kept, *left_out, other_package])
    assert pairs == [
        {"query": kept["summary"], "document": kept["body"], "package": "p", "name": "p.f"},
        {"query": kept["summary"], "document": kept["body"], "package": "q", "name": "p.f"},
    ]
    assert len(docstring_pairs(spam[:3])) == 3
