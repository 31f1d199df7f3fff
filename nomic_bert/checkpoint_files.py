"""Checks of a checkpoint's directory before anything in it is read."""

import os
from pathlib import Path

from textfiles.hub_names import is_hub_name


def require_checkpoint(checkpoint: str) -> None:
    """Refuse what is neither a directory with a model or a PEFT adapter, nor shaped like a hub name (`owner/name`).

    Raises:
        FileNotFoundError: names the path; transformers would only say that it is not a repository.
        ValueError: a link leaves the directory.
    """
    local = Path(checkpoint)
    if not local.exists() and is_hub_name(checkpoint):
        return
    if not any((local / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(
            f"{checkpoint} is not a checkpoint: it has no config.json. Give a directory that has one."
        )
    refuse_links_out(local)


def refuse_links_out(directory: str | os.PathLike) -> None:
    """Refuse links to files outside a directory: what they show would be read, and copied into what is published.

    A snapshot in the hub's cache consists of links to the `blobs` of the same repository, which are accepted.

    Raises:
        ValueError: names the link, or what is neither a file nor a directory.
    """
    root = Path(directory).resolve()
    accepted = [root]
    if root.parent.name == "snapshots":
        accepted.append(root.parent.parent / "blobs")
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in accepted):
                raise ValueError(
                    f"{path} is a link to {os.readlink(path)}, outside its directory. If you trust it, replace the "
                    "link by a copy of the file."
                )
            if not path.is_symlink() and not path.is_file() and not path.is_dir():
                raise ValueError(f"{path} is a pipe, a socket or a device, which a reader could wait for. Remove it.")
