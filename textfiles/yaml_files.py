"""YAML that people write: one reader, whose errors name the file, and which refuses a key that is used twice."""

from pathlib import Path
from typing import Any

import yaml


def read_yaml(file: str | Path) -> Any:
    """Read a YAML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not valid YAML, not UTF-8, nested too deeply, or uses a key twice; the message names it.
    """
    try:
        return parse_yaml(Path(file).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error


def parse_yaml(text: str) -> Any:
    """Read YAML as plain values; raises YAMLError and RecursionError."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[Any]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is used twice; remove one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
