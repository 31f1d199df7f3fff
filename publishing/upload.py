"""The upload of a model or a data set: its plan, shown before anything is changed, and then one call to resume."""

import fnmatch
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from textfiles.checksums import sha256_of
from textfiles.hub_names import is_hub_name

T = TypeVar("T")

# In every card that this project writes: how a repository of ours is known.
PROJECT_TAG = "nomic-embed-hf"

# Files of an earlier upload that would speak for other weights, or be read as rows, if they stayed.
_STALE_ROWS = ("data/*", "*.parquet")
_STALE_WEIGHTS = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*", "tf_model*", "flax_model*", "onnx/*", "openvino/*",
    "[0-9]_*/*", "training.json", "vocab.txt", "special_tokens_map.json", "tokenizer.json", "added_tokens.json",
    "*_nomic_bert.py",
)  # fmt: skip
# What a repository may hold that nobody has put anything into.
_EMPTY = {".gitattributes", "README.md"}


def require_repo_id(repo_id: str) -> str:
    """The name, if it is one: `owner/name`, which is also safe as a path.

    Raises:
        ValueError: it is not.
    """
    if not is_hub_name(repo_id):
        raise ValueError(
            f"{repo_id!r} is no repository name: give owner/name, of letters, digits, '-', '_' and '.', without '..' "
            "or '--'."
        )
    return repo_id


@dataclass(frozen=True)
class UploadPlan:
    """What an upload would do; files by their path in the repository, with sizes in bytes.

    Attributes:
        repo_id: "owner/name".
        repo_type: "model" or "dataset".
        revision: branch; None: main.
        private: whether a new repository is private.
        parent: commit that the plan was made against; None: the repository is new.
        new_repository: whether the repository is created.
        new_branch: whether the branch is created, where main is.
        foreign: whether it holds files and is not known as ours.
        added: new files.
        changed: files with other content there.
        unchanged: files that are there already.
        removed: files of an earlier upload that would contradict this one.
        kept: files of the repository that are left alone.
    """

    repo_id: str
    repo_type: str
    revision: str | None
    private: bool
    parent: str | None
    new_repository: bool
    new_branch: bool
    foreign: bool
    added: dict[str, int]
    changed: dict[str, int]
    unchanged: list[str]
    removed: list[str]
    kept: list[str]

    def describe(self) -> str:
        """The plan for people, one line a file."""
        what = {"model": "repository", "dataset": "data set"}[self.repo_type]
        state = f"a new {what}" if self.new_repository else f"an existing {what}"
        visible = f", {'private' if self.private else 'public'}" if self.new_repository else ""
        branch = f"{'new branch ' if self.new_branch else ''}{self.revision or 'main'}"
        lines = [f"{self.repo_id}, {branch}: {state}{visible}"]
        for title, files in (("add", self.added), ("change", self.changed)):
            lines += [f"  {title:<8}{name} ({size:,} bytes)" for name, size in files.items()]
        for title, names in (("remove", self.removed), ("leave", self.kept)):
            lines += [f"  {title:<8}{name}" for name in names]
        if self.unchanged:
            lines.append(f"  {len(self.unchanged)} files are there already")
        return "\n".join(lines)

    @property
    def is_done(self) -> bool:
        """Whether the repository holds exactly this already."""
        return not (self.added or self.changed or self.removed)


def plan_upload(
    api: HfApi, directory: Path, repo_id: str, revision: str | None, private: bool, repo_type: str = "model"
) -> UploadPlan:
    """Compare the directory with the repository; changes nothing.

    Args:
        api: with its token.
        directory: what to upload; files that begin with a dot stay here.
        repo_id: "owner/name"; need not exist.
        revision: branch; need not exist; None: main.
        private: for a new repository.
        repo_type: "model" or "dataset".

    Raises:
        ConnectionError: the hub cannot be reached, or refuses; says what it said.
    """
    local = dict(local_files(directory))
    sizes = {name: path.stat().st_size for name, path in local.items()}

    def info_of(revision: str | None) -> Any:
        return _asked(api, lambda: _or_none(lambda: api.repo_info(repo_id, revision=revision, repo_type=repo_type)))

    info = info_of(revision)
    new_branch = info is None and revision is not None
    if new_branch:  # it will begin where main is
        info = info_of(None)
    sha = None if info is None else info.sha
    tree = [] if sha is None else _asked(api, lambda: _tree(api, repo_id, sha, repo_type))
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    same = [name for name, path in local.items() if name in there and _is_same(path, there[name])]
    others = sorted(set(there) - set(local) - {".gitattributes"})
    stale = _STALE_ROWS if repo_type == "dataset" else _STALE_WEIGHTS
    removed = [name for name in others if any(fnmatch.fnmatch(name, pattern) for pattern in stale)]
    tags = info.card_data.tags if info is not None and info.card_data is not None else None
    return UploadPlan(
        repo_id=repo_id,
        repo_type=repo_type,
        revision=revision,
        private=private,
        parent=sha,
        new_repository=info is None,
        new_branch=new_branch,
        foreign=bool(set(there) - _EMPTY) and PROJECT_TAG not in (tags or []),
        added={name: size for name, size in sizes.items() if name not in there},
        changed={name: size for name, size in sizes.items() if name in there and name not in same},
        unchanged=same,
        removed=removed,
        kept=[name for name in others if name not in removed],
    )


def upload(api: HfApi, directory: Path, plan: UploadPlan, overwrite: bool) -> str:
    """Carry out a plan; after an interruption, the same call uploads what is not there yet.

    Args:
        api: with its token.
        directory: as planned.
        plan: from `plan_upload`.
        overwrite: whether a repository that is not known as ours may be changed.

    Returns:
        The address of the commit.

    Raises:
        FileExistsError: the repository holds something else.
        ConnectionError: the hub cannot be reached or refuses, for instance because the repository has changed since.
    """
    if plan.foreign and not overwrite:
        raise FileExistsError(
            f"{plan.repo_id} holds files and its card lacks the tag {PROJECT_TAG}, so it is not known as one of "
            "this project. Choose another name, or say --overwrite."
        )
    kind = plan.repo_type
    if plan.new_repository:
        _asked(api, lambda: api.create_repo(plan.repo_id, repo_type=kind, private=plan.private, exist_ok=True))
    if plan.new_branch and plan.revision:
        branch = plan.revision
        _asked(api, lambda: api.create_branch(plan.repo_id, repo_type=kind, branch=branch, exist_ok=True))
    commit = _asked(
        api,
        lambda: api.upload_folder(
            repo_id=plan.repo_id,
            repo_type=kind,
            folder_path=directory,
            revision=plan.revision,
            commit_message="Upload data set" if kind == "dataset" else "Upload model",
            parent_commit=plan.parent,
            ignore_patterns=[".*", "*/.*"],
            delete_patterns=plan.removed or None,
        ),
    )
    return str(commit.commit_url)


def local_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Path in the repository and path here of every file that would be uploaded, in order.

    Raises:
        ValueError: something there is a link, whose target may lie outside.
    """
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_symlink():
            raise ValueError(f"{path} is a link; what is uploaded must lie in the directory itself.")
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path


def _is_same(path: Path, there: RepoFile) -> bool:
    """By the hash that the hub has of a file: SHA-256 of a large one, git's of a small one."""
    if there.lfs is not None:
        return sha256_of(path) == there.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


def _tree(api: HfApi, repo_id: str, sha: str, repo_type: str) -> list[Any]:
    return list(api.list_repo_tree(repo_id, recursive=True, revision=sha, repo_type=repo_type))


def _or_none(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def _asked(api: HfApi, call: Callable[[], T]) -> T:
    """Call the hub; errors are shown without the token."""
    try:
        return call()
    except (HTTPError, OSError) as error:
        said = str(error)
        token = api.token if isinstance(api.token, str) else None
        raise ConnectionError(said.replace(token, "***") if token else said) from None
