"""A hub of one process, as far as an upload needs one: repositories, branches, LFS objects and commits, in memory."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.serving import serving

LARGE = 10_000  # bytes from which a file is an LFS object here


@dataclass
class Repository:
    """Branches, each a list of commits: {path: content}."""

    private: bool
    branches: dict[str, list[dict[str, bytes]]] = field(default_factory=lambda: {"main": [{}]})

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a branch or of a hash."""
        for name, commits in self.branches.items():
            for files in [commits[-1], *commits]:
                if revision in (name, sha_of(files)):
                    return sha_of(files), files
        return None


def sha_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class FakeHub:
    """State, and what was asked: `requests` has (method, path, authorization header).

    Data sets are among the repositories as `datasets/owner/name`.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.refuse_commits = 0
        self.address = ""

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of an answer."""
        if match := re.fullmatch(r"/lfs/(\w+)", path):
            self.objects[match[1]] = body
            return 200, {}, {}
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return 200, {}, {"objects": [self._lfs_answer(each) for each in json.loads(body)["objects"]]}
        if path == "/api/validate-yaml":
            return 200, {}, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            name = f"datasets/{name}" if wanted.get("type") == "dataset" else name
            visibility = wanted.get("private") or wanted.get("visibility") == "private"
            self.repositories.setdefault(name, Repository(bool(visibility)))
            return 200, {}, {"url": f"{self.address}/{name}", "name": name, "id": name}
        path = path.replace("/api/datasets/", "/api/models/datasets/")
        match = re.fullmatch(
            r"/api/models/((?:datasets/)?[^/]+/[^/]+)(?:/(revision|tree|branch|preupload|commit)/(.+))?", path
        )
        if not match:
            return 404, {}, {"error": f"nothing at {path}"}
        name, what, revision = match[1], match[2] or "revision", unquote(match[3] or "main")
        repository = self.repositories.get(name)
        if repository is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
        if what == "branch":
            repository.branches.setdefault(revision, list(repository.branches["main"]))
            return 200, {}, {}
        found = repository.find(revision)
        if found is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, {"error": "Revision not found"}
        sha, files = found
        if what == "tree":
            return 200, {}, [entry(path, content) for path, content in files.items()]
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False}
                for f in asked
            ]
            return 200, {}, {"files": modes}
        if what == "commit":
            return self._commit(name, repository, revision, sha, files, body)
        card = files.get("README.md", b"").decode()
        metadata = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None
        siblings = [{"rfilename": path} for path in files]
        return (
            200,
            {},
            {"id": name.removeprefix("datasets/"), "sha": sha, "siblings": siblings, "cardData": metadata, "tags": []},
        )

    def _lfs_answer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.objects:
            answer["actions"] = {"upload": {"href": f"{self.address}/lfs/{wanted['oid']}"}}
        return answer

    def _commit(
        self, name: str, repository: Repository, branch: str, sha: str, files: dict[str, bytes], body: bytes
    ) -> tuple[int, dict[str, str], Any]:
        if self.refuse_commits:
            self.refuse_commits -= 1
            return 403, {}, {"error": "refused this time"}
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, sha):
                return 412, {}, {"error": "the branch has moved"}
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        repository.branches[branch].append(files)
        url = f"{self.address}/{name}/commit/{sha_of(files)}"
        return 200, {}, {"commitUrl": url, "commitOid": sha_of(files), "success": True}


def entry(path: str, content: bytes) -> dict[str, Any]:
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    answer = {"type": "file", "path": path, "size": len(content), "oid": git}
    if len(content) >= LARGE:
        answer["oid"] = "0" * 40  # of the pointer
        answer["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return answer


@contextmanager
def running() -> Iterator[FakeHub]:
    """Serve until the block ends."""
    hub = FakeHub()

    def respond(method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        path = urlsplit(target).path
        hub.requests.append((method, path, headers.get("authorization")))
        status, more, content = hub.respond(method, path, body)
        return status, {**more, "content-type": "application/json"}, json.dumps(content).encode()

    with serving(respond) as hub.address:
        yield hub
