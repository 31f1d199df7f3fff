"""Sources of pairs as a command line names them: paths, mappings, and the list of a training config."""

from collections.abc import Mapping, Sequence

from curation.audit.held_out import plain_name
from curation.sources import Source
from recipes.shared.arguments import read_config
from textfiles.paths import file_fault
from textfiles.settings import read_section


def pair_sources(
    entries: Sequence, config_file: str | None, columns: Mapping[str, str | None], key: str = "sources"
) -> list[Source]:
    """Sources to look at.

    Args:
        entries: paths or hub ids, or mappings with the fields of `curation.sources.Source`.
        config_file: a config with a list `sources`, which are added.
        columns: `query`, `document` and `negatives` -> column, for the entries that are a path or id.
        key: what to call the entries in an error.

    Raises:
        ValueError: the config is not there or has no list of sources, an entry is invalid, or two have one name.
        OSError: the config cannot be read.
    """
    named = [(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]
    if config_file is not None:
        if fault := file_fault(config_file):
            raise ValueError(f"sources_from: {fault}")
        config = read_config(config_file)
        if not isinstance(config.get("sources"), list):
            raise ValueError(f"{config_file}: no list of sources; write it under the key sources.")
        named += [(entry, f"{config_file}, sources[{i}]") for i, entry in enumerate(config["sources"])]
    plain = {"query_prefix": "", "document_prefix": "", **columns}
    sources = []
    for entry, where in named:
        section = {"name": plain_name(entry), "path": entry, **plain} if isinstance(entry, str) else entry
        sources.append(read_section(Source, section, where))
    refuse_equal([source.name for source in sources], key)
    return sources


def refuse_equal(names: list[str], key: str) -> None:
    """Raise a ValueError if two entries of a list have one name."""
    if equal := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{key}: two are called {equal[0]!r}; give them as mappings with a name each.")
