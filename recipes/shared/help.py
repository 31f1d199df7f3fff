"""The page that `--help` prints, read from the sources: importing them would take seconds."""

import ast
import functools
import importlib.util
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
_INHERITED = ("transformers", "TrainingArguments")
_INHERITED_PAGE = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"
_WIDTH = 100


class Key(NamedTuple):
    """A key of a recipe: a field of a dataclass, with its type, default and meaning as texts.

    Attributes:
        name: of the field.
        type: as YAML calls it.
        default: as YAML writes it; None: the key is required.
        meaning: from the docstring of the dataclass; None: it has none there.
    """

    name: str
    type: str
    default: str | None
    meaning: str | None


def help_page(usage: str | None, module: str, function: str) -> str:
    """What a recipe does, and its keys with type, default and meaning.

    Args:
        usage: docstring of the script.
        module: dotted name of the module of the recipe's step.
        function: the step, whose parameters are annotated with dataclasses.
    """
    kinds = _parameters(module, function)
    lines = [
        (usage or "").strip(),
        "",
        "Settings come from YAML files (--config FILE.yaml, several if needed: a later one wins) and from the command",
        "line (--key value), which wins over the files. --key.inner value sets one entry of a mapping.",
        "",
    ]
    for key in (key for kind in kinds for key in own_keys(*kind) if key.meaning):
        lines.append(f"  --{key.name}  {key.type}, {'required' if key.default is None else f'default {key.default}'}")
        lines.append(_filled(str(key.meaning), " " * 6, " " * 6))
    if any(_extends_training_arguments(*kind) for kind in kinds):
        lines += ["", f"Keys of transformers.TrainingArguments ({_INHERITED_PAGE}):", ""]
        for group, names in training_argument_groups().items():
            lines.append(_filled(", ".join(names), f"  {group}: ", " " * 4))
    return "\n".join(lines)


def own_keys(module: str, name: str) -> list[Key]:
    """The keys of a dataclass of this project and of its bases, up to TrainingArguments.

    Args:
        module: dotted name of a module that defines or imports the dataclass.
        name: of the dataclass.
    """
    module, definition = _find_class(module, name)
    keys = {key.name: key for base in _bases(module, definition) if base != _INHERITED for key in own_keys(*base)}
    meanings = attribute_meanings(ast.get_docstring(definition) or "")
    for name, field in _fields(definition).items():
        inherited = keys[name].meaning if name in keys else None
        type_text = _type_text(module, field.annotation)
        keys[name] = Key(name, type_text, _default_text(field.value), meanings.get(name, inherited))
    return sorted(keys.values(), key=lambda key: key.default is not None)


def attribute_meanings(docstring: str) -> dict[str, str]:
    """The entries under `Attributes:` of a docstring in Google style, each as one line."""
    section = re.search(r"^Attributes:\n((?:    .*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*\n(?:     .*\n)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def training_argument_groups() -> dict[str, list[str]]:
    """The fields of transformers' TrainingArguments under the headings of its docstring."""
    package = importlib.util.find_spec("transformers")  # which does not import it
    assert package is not None and package.origin is not None
    tree = _parse(Path(package.origin).parent / "training_args.py")
    definition = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == _INHERITED[1])
    others = list(_fields(definition))
    groups: dict[str, list[str]] = {}
    group = "Output"
    for line in (ast.get_docstring(definition) or "").splitlines():
        if heading := re.match(r"    > (\w.*)", line):
            group = heading[1]
        elif (entry := re.match(r"    (\w+) ?\(", line)) and entry[1] in others:
            groups.setdefault(group, []).append(entry[1])
            others.remove(entry[1])
    return {**groups, "Others": others} if others else groups


def _filled(text: str, first: str, later: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


@functools.cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _file_of(module: str) -> Path:
    path = _ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _parameters(module: str, function: str) -> list[tuple[str, str]]:
    """(module, class) of each parameter of a function."""
    found = next(
        node for node in _parse(_file_of(module)).body if isinstance(node, ast.FunctionDef) and node.name == function
    )
    return [(module, ast.unparse(argument.annotation)) for argument in found.args.args if argument.annotation]


def _find(module: str, name: str) -> tuple[str, ast.stmt | None]:
    """What gives a name its value, and the module where it stands; None for what is not of this project."""
    for node in _parse(_file_of(module)).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return module, node
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            source = _imported_module(module, node)
            return _find(source, name) if _file_of(source).exists() else (source, None)
    return module, None


def _imported_module(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module if _file_of(module).name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}"


def _find_class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    place, node = _find(module, name)
    if not isinstance(node, ast.ClassDef):
        raise LookupError(f"{module}.{name} is not a class of this project.")
    return place, node


def _bases(module: str, definition: ast.ClassDef) -> list[tuple[str, str]]:
    """(module, name) of each base; that of a class of another package is the module that it is imported from."""
    return [(_find(module, ast.unparse(base))[0], ast.unparse(base)) for base in definition.bases]


def _extends_training_arguments(module: str, name: str) -> bool:
    bases = _bases(*_find_class(module, name))
    return any(base == _INHERITED or _extends_training_arguments(*base) for base in bases)


def _fields(definition: ast.ClassDef) -> dict[str, ast.AnnAssign]:
    annotated = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    return {ast.unparse(node.target): node for node in annotated if "ClassVar" not in ast.unparse(node.annotation)}


def _type_text(module: str, annotation: ast.expr) -> str:
    """A type as YAML's user knows it: `text or null`; of a Literal, the words."""
    if isinstance(annotation, ast.BinOp):
        return f"{_type_text(module, annotation.left)} or {_type_text(module, annotation.right)}"
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        words = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return " or ".join(str(word.value) for word in words if isinstance(word, ast.Constant))
    text = ast.unparse(annotation)
    if isinstance(annotation, ast.Name):
        place, node = _find(module, text)
        if isinstance(node, ast.Assign):  # a name for a type
            return _type_text(place, node.value)
    names = {
        "str": "text",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "dict": "mapping",
        "list": "list",
        "None": "null",
    }
    return names.get(text.partition("[")[0], text)


def _default_text(value: ast.expr | None) -> str | None:
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        if "default_factory" in given:
            return {"list": "[]", "dict": "{}"}.get(ast.unparse(given["default_factory"]))
        value = given.get("default")
    if value is None:
        return None
    if isinstance(value, ast.Constant) and isinstance(value.value, str | bool | None):
        return value.value or '""' if isinstance(value.value, str) else json.dumps(value.value)
    return ast.unparse(value)
