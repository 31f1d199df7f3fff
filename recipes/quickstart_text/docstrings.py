"""Documentation strings of the installed Python packages: real text that every installation already has.

Packages are parsed, never imported: nothing of theirs runs, and what is found depends on the files alone.
"""

import ast
import gc
import importlib.metadata
import inspect
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePath
from typing import TypedDict

from tqdm.auto import tqdm

from textfiles.commands import end_with_parent

# Tests document no function, and vendored copies would turn up under a name they do not have.
_SKIPPED_FOLDERS = {"tests", "test", "_vendor", "vendored", "externals"}
_STANDARD_LIBRARY = "stdlib"
_FILES_PER_TASK = 32
# A first paragraph that opens so is an example or a directive, not a summary.
_MARKUP = (">>>", "```", "..")


class Docstring(TypedDict):
    """One documentation string: `package` is the top-level import name, `name` the dotted name with the module."""

    package: str
    name: str
    summary: str
    body: str
    text: str


class DocstringPair(TypedDict):
    """A summary and the rest of its documentation string."""

    query: str
    document: str
    package: str
    name: str


def read_docstrings(names: Sequence[str] | None = None, num_processes: int | None = None) -> list[Docstring]:
    """Collect the documentation strings of modules, classes and functions of installed packages.

    Files that do not parse under the running Python are passed over, as are folders of tests and of vendored
    copies. Strings that packages attach to compiled functions at import time (much of `torch` and `numpy`)
    are not seen.

    Args:
        names: distribution or import names (`scikit-learn` or `sklearn`), and "stdlib" for Python's own modules, which
            are one package: `stdlib.json`. None: every installed package, without these.
        num_processes: parser processes; None uses every core. The result does not depend on it.

    Returns:
        Records sorted by file, and inside a file in the order of the text.

    Raises:
        ValueError: a name is neither a distribution nor an import name of an installed package.
    """
    files = _source_files(names)
    chunks = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    records: list[Docstring] = []
    with (
        tqdm(total=len(files), desc="Reading docstrings", unit="file") as progress,
        ProcessPoolExecutor(num_processes, initializer=end_with_parent) as pool,
    ):
        for chunk, found in zip(chunks, pool.map(_parse_files, chunks), strict=True):
            records.extend(found)
            progress.update(len(chunk))
    return records


def docstring_pairs(
    records: Iterable[Docstring],
    *,
    min_summary_words: int = 3,
    max_summary_characters: int = 400,
    min_body_characters: int = 40,
    max_bodies_per_summary: int = 3,
) -> list[DocstringPair]:
    """Make (summary, body) pairs of the documentation strings that have both.

    Dropped are summaries that say too little or run too long, bodies that are too short, exact copies of a
    pair within its package, and summaries that a package puts over many different bodies ("Initialize
    self."), which no retriever could tell apart.

    Args:
        records: documentation strings.
        min_summary_words: fewest words of a summary.
        max_summary_characters: longest summary, in characters.
        min_body_characters: shortest body, in characters.
        max_bodies_per_summary: most different bodies that a summary may have in its package.

    Returns:
        The pairs in the order of the records.
    """
    pairs: dict[tuple[str, str, str], DocstringPair] = {}
    for record in records:
        summary, body = record["summary"], record["body"]
        if len(summary.split()) < min_summary_words or len(summary) > max_summary_characters:
            continue
        if len(body) < min_body_characters or summary.startswith(_MARKUP):
            continue
        pair = DocstringPair(query=summary, document=body, package=record["package"], name=record["name"])
        pairs.setdefault((record["package"], summary, body), pair)
    bodies = Counter((package, summary) for package, summary, _ in pairs)
    return [pair for (package, summary, _), pair in pairs.items() if bodies[package, summary] <= max_bodies_per_summary]


def _source_files(names: Sequence[str] | None) -> list[tuple[Path, str]]:
    """(path, dotted module name) of every Python file of the wanted packages, sorted by the place in its package."""
    files: dict[str, tuple[Path, str]] = {}
    unmatched = set(names or ()) - {_STANDARD_LIBRARY}
    if _STANDARD_LIBRARY in (names or ()):
        files |= _standard_library()
    for distribution in importlib.metadata.distributions():
        distribution_name = _canonical(distribution.metadata["Name"] or "")
        for file in distribution.files or ():
            if file.suffix != ".py" or ".." in file.parts or _SKIPPED_FOLDERS.intersection(file.parts):
                continue
            module = _module(file)
            package = module.split(".")[0]
            matches = {name for name in names or () if name == package or _canonical(name) == distribution_name}
            unmatched -= matches
            if matches or names is None:
                # The first copy on the import path is the one that an import would find.
                files.setdefault(str(file), (Path(str(file.locate())), module))
    if unmatched:
        raise ValueError(
            f"no Python source is installed for {', '.join(sorted(unmatched))}; `pip list` shows the names."
        )
    return [files[key] for key in sorted(files)]


def _standard_library() -> dict[str, tuple[Path, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    files = {}
    for path in root.rglob("*.py"):
        file = path.relative_to(root)
        top = file.parts[0].removesuffix(".py")  # site-packages stand there too
        if top in sys.stdlib_module_names and not _SKIPPED_FOLDERS.intersection(file.parts):
            files[f"{_STANDARD_LIBRARY}/{file}"] = (path, f"{_STANDARD_LIBRARY}.{_module(file)}")
    return files


def _module(file: PurePath) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _parse_files(files: list[tuple[Path, str]]) -> list[Docstring]:
    records: list[Docstring] = []
    # Syntax trees hold no cycles: the garbage collector's passes over them would be time lost.
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        for path, module in files:
            records.extend(_parse_file(path, module))
    finally:
        if was_collecting:
            gc.enable()
    return records


def _parse_file(path: Path, module: str) -> list[Docstring]:
    try:
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (FileNotFoundError, SyntaxError, ValueError, RecursionError):
        return []
    package = module.split(".")[0]
    return [_record(package, name, text) for name, text in _documented(tree, module) if text.strip()]


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, documentation string) of a module, class or function and of all that is defined inside it."""
    documentation = ast.get_docstring(node)  # type: ignore[arg-type]
    if documentation:
        yield name, documentation
    yield from _documented_inside(node, name)


def _documented_inside(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    # Definitions are statements: descending into statements alone skips the expressions, most of a tree.
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _documented(child, f"{name}.{child.name}")
            else:
                yield from _documented_inside(child, name)


def _record(package: str, name: str, text: str) -> Docstring:
    # A literal may hold half of a surrogate pair, which no file could be written with.
    text = inspect.cleandoc(text).encode(errors="replace").decode()
    first, _, rest = re.sub(r"\n[ \t]+\n", "\n\n", text).partition("\n\n")
    return Docstring(package=package, name=name, summary=" ".join(first.split()), body=rest.strip("\n"), text=text)
