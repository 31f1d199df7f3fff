"""The programs that open a published directory here, each in a fresh process that has no network and no token."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .onnx_export import ONNX_FILE, QUANTIZED_FILE
from .openvino_export import OPENVINO_FILE

_SCRIPT = Path(__file__).with_name("read_embeddings.py")
_PROJECT = _SCRIPT.parents[1]


@dataclass(frozen=True)
class Reader:
    """A program that opens the directory.

    Attributes:
        name: for people.
        key: for `read_embeddings.py`.
        trained_length_only: whether it is right to the trained length and no further.
        tolerance: largest difference of an embedding's component that is taken for rounding.
    """

    name: str
    key: str
    trained_length_only: bool = False
    tolerance: float = 1e-5

    @property
    def code(self) -> str:
        """Where the model's code comes from: "remote", "package", "native", or the name of an exported file."""
        return self.key.rpartition("/")[2]


READERS = (
    Reader("transformers, trust_remote_code", "transformers/remote"),
    Reader("transformers, this package imported", "transformers/package"),
    # native transformers cannot scale by each text's own length, so config.json tells it of no scaling
    Reader("transformers alone", "transformers/native", trained_length_only=True),
    Reader("sentence-transformers, trust_remote_code", "sentence-transformers/remote"),
    Reader("sentence-transformers, this package imported", "sentence-transformers/package"),
    Reader("sentence-transformers alone", "sentence-transformers/native", trained_length_only=True),
)
# File -> reader, for those that the directory has. ours: 8 bits move a component by 1e-2, measured on small models
EXPORT_READERS = {
    ONNX_FILE: Reader("ONNX Runtime", f"onnxruntime/{Path(ONNX_FILE).name}", tolerance=1e-4),
    QUANTIZED_FILE: Reader("ONNX Runtime, int8", f"onnxruntime/{Path(QUANTIZED_FILE).name}", tolerance=5e-2),
    OPENVINO_FILE: Reader("OpenVINO in float32", f"openvino/{Path(OPENVINO_FILE).name}", tolerance=1e-4),
}


@dataclass(frozen=True)
class Probe:
    """A text whose embedding is compared.

    Attributes:
        text: without prefix.
        tokens: with prefix and special tokens.
        prefix: put before it.
        prompt_name: under which sentence-transformers adds that prefix; "" for none.
    """

    text: str
    tokens: int
    prefix: str = ""
    prompt_name: str = ""

    @property
    def full_text(self) -> str:
        """With the prefix."""
        return self.prefix + self.text


def read_embeddings(
    readers: Sequence[Reader], directory: Path, probes: Sequence[Probe], together: Sequence[int]
) -> list[tuple[np.ndarray, dict[str, str]]]:
    """Embed probes through readers, one after the other in one new process.

    Args:
        readers: of one `code`.
        directory: the published directory.
        probes: n texts, embedded one by one.
        together: numbers of the probes that are embedded once more, as one batch.

    Returns:
        For each reader (n + len(together), dim) in float32, and the versions of the packages that read.

    Raises:
        ValueError: a reader failed; ends with what it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        job = {
            "directory": str(directory.resolve()),
            "readers": [reader.key for reader in readers],
            "probes": [{"text": p.text, "prefix": p.prefix, "prompt_name": p.prompt_name} for p in probes],
            "together": list(together),
            "output": scratch,
        }
        job_file = Path(scratch, "job.json")
        job_file.write_text(json.dumps(job), encoding="utf-8")
        isolated = [] if readers[0].code == "package" else ["-I"]
        result = subprocess.run(
            [sys.executable, *isolated, str(_SCRIPT), str(job_file)],
            env=_environment(scratch), cwd=scratch, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        if result.returncode:
            names = " or ".join(reader.name for reader in readers)
            last = "\n".join(result.stderr.strip().splitlines()[-5:])
            raise ValueError(f"{names} cannot read {directory}:\n{last or f'exit {result.returncode}'}")
        versions = json.loads(Path(scratch, "versions.json").read_text(encoding="utf-8"))
        embeddings = [np.load(Path(scratch, f"{number}.npy"), allow_pickle=False) for number in range(len(readers))]
        return list(zip(embeddings, versions, strict=True))


def environment_without_tokens() -> dict[str, str]:
    """This process's environment, for a program that must not log in anywhere."""
    return {name: value for name, value in os.environ.items() if "TOKEN" not in name.upper()}


def _environment(scratch: str) -> Mapping[str, str]:
    """This process's, without tokens, network and what earlier runs left in a cache of remote code."""
    return {
        **environment_without_tokens(),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": scratch,
        "HF_MODULES_CACHE": str(Path(scratch, "modules")),
        "PYTHONPATH": str(_PROJECT),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
