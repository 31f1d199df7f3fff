"""Libraries that embed with a published directory, by the line that docs/use.md has for each."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nomic_bert.embedder import load_embedder
from publishing.reader_results import LibraryResult

from .environments import NotInstalled, call, installed_versions, python_environment
from .programs import LIBRARIES

_HERE = Path(__file__).parent
PAGE_OF_LINES = _HERE.parents[1] / "docs" / "use.md"
_TEXT = "the determinant of a banded matrix"


@dataclass(frozen=True)
class Library:
    """A library with a line in docs/use.md.

    Attributes:
        name: as in the page's table.
        key: of its function in read_library.py.
        packages: whose versions are reported.
    """

    name: str
    key: str
    packages: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The Python that the page prints for it."""
        (row,) = re.findall(
            rf"^\| {re.escape(self.name)} \|(.*)\|$", PAGE_OF_LINES.read_text(encoding="utf-8"), re.MULTILINE
        )
        return re.findall("`([^`]+)`", row)


TRIED = (
    Library("LangChain", "langchain", ("langchain-huggingface",)),
    Library("LlamaIndex", "llama_index", ("llama-index-embeddings-huggingface",)),
    Library("Haystack", "haystack", ("haystack-ai", "sentence-transformers-haystack")),
    Library("BERTopic", "bertopic", ("bertopic",)),
    Library("Chroma", "chroma", ("chromadb",)),
    Library("LanceDB", "lancedb", ("lancedb",)),
    Library("Qdrant", "qdrant", ("qdrant-client",)),
)


def try_library(library: Library, model: Path, environments: Path) -> LibraryResult:
    """Run a library's line on a text, and compare with `encode(prompt_name=...)`.

    Args:
        library: which.
        model: a published directory.
        environments: folder of the environments.
    """
    try:
        python = python_environment(environments, LIBRARIES)
    except NotInstalled as error:
        return LibraryResult(library=library.name, versions={}, differences={}, failure=str(error))
    versions = installed_versions(python, library.packages)
    with tempfile.TemporaryDirectory() as name:
        scratch, output = Path(name), Path(name, "found.json")
        job = {"model": str(model.resolve()), "text": _TEXT, "lines": library.lines}
        (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
        try:
            call([str(python), "-I", str(_HERE / "read_library.py"), name, library.key, str(output)], scratch)
        except RuntimeError as error:
            return LibraryResult(library=library.name, versions=versions, differences={}, failure=str(error))
        found = json.loads(output.read_text(encoding="utf-8"))
    embedder = load_embedder(model, device="cpu", dtype=torch.float32)
    prompts = ("document", "query", "clustering")
    wanted = {prompt: embedder.encode([_TEXT], prompt_name=prompt)[0].astype(np.float64) for prompt in prompts}
    wanted["similarity"] = np.array(wanted["document"] @ wanted["query"])
    differences = {key: float(np.abs(np.array(value) - wanted[key]).max()) for key, value in found.items()}
    return LibraryResult(library=library.name, versions=versions, differences=differences)
