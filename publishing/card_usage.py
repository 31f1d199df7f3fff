"""How to use the model: prefixes first, then each reader with code, shorter embeddings, lengths, and who agreed."""

from nomic_bert.prompts import PREFIXES, prefix_text
from textfiles.markdown import code, escaped, literal, table

from .card_facts import CardFacts

_QUERY = "solve a banded linear system"
_DOCUMENT = "Solve the equation a @ x = b for x, where a is a banded matrix."
_TEXTS = f"""texts = [
    "search_query: {_QUERY}",
    "search_document: {_DOCUMENT}",
]"""
_TASKS = {
    "search_query": ("search, the query", "`encode_query(...)` or `prompt_name=\"query\"`"),
    "search_document": ("search, the documents", "`encode_document(...)` or `prompt_name=\"document\"`"),
    "clustering": ("clustering, topics, deduplication", "`encode(..., prompt_name=\"clustering\")`"),
    "classification": ("classification, similarity of like texts", "`encode(..., prompt_name=\"classification\")`"),
}  # fmt: skip


def prefixes(facts: CardFacts) -> str:
    """The table of tasks, and which prefixes the recorded training used."""
    rows = [(*_TASKS[name], f"`{prefix_text(name)}`") for name in sorted(PREFIXES, key=list(_TASKS).index)]
    return (
        "## Prefixes first\n\n"
        "**Every text needs a prefix that says what it is for**, as in training. No prefix is added unless you ask for "
        "it; each ends with a colon and a space.\n\n"
        + table(["task", "sentence-transformers", "prefix, in all other programs"], rows)
        + _trained_prefixes(facts)
    )


def _trained_prefixes(facts: CardFacts) -> str:
    sources = [source for stage in facts.training for source in stage.get("sources") or []]
    sides = ("query_prefix", "document_prefix")
    trained = list(dict.fromkeys(source[side] for source in sources for side in sides if side in source))
    if not trained:
        return ""
    named = ", ".join(literal(prefix) for prefix in trained)
    unused = [f"`{prefix_text(name)}`" for name in PREFIXES if prefix_text(name) not in trained]
    rest = (
        f" {', '.join(unused)} did not: what {'it does' if len(unused) == 1 else 'they do'} was not trained."
        if unused
        else ""
    )
    return f"\n\nIn the recorded training these stood before texts: {named}.{rest}"


def usage(facts: CardFacts) -> str:
    """Each reader, with code."""
    parts = ["## Usage", _sentence_transformers(facts), _package(facts), _transformers(facts), _native(facts)]
    if facts.onnx_files:
        parts.append(_onnx(facts))
    return "\n\n".join([*parts, _servers(facts)])


def _sentence_transformers(facts: CardFacts) -> str:
    return "### sentence-transformers\n\n`trust_remote_code=True` runs the model's code in this repository.\n\n" + code(
        "python",
        f"""
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{facts.repo_id}", trust_remote_code=True)
queries = model.encode_query(["{_QUERY}"])
documents = model.encode_document(["{_DOCUMENT}"])
print(model.similarity(queries, documents))
""",
    )


def _package(facts: CardFacts) -> str:
    return (
        "### Without remote code\n\nWith the package nomic-embed-hf, of which this model is made, installed (`pip "
        "install .` in its checkout) and imported, no code of this repository runs.\n\n"
        + code(
            "python",
            f"""
import nomic_bert  # transformers and sentence-transformers now open the model with the installed code
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

encoder = AutoModel.from_pretrained("{facts.repo_id}")  # token vectors
model = SentenceTransformer("{facts.repo_id}")
queries = model.encode_query(["{_QUERY}"])
documents = model.encode_document(["{_DOCUMENT}"])
""",
        )
    )


def _pooling(facts: CardFacts) -> str:
    norm = "embeddings = F.layer_norm(embeddings, embeddings.shape[-1:])\n" if facts.model.layer_norm else ""
    return f"""with torch.no_grad():
    states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
mask = batch["attention_mask"].unsqueeze(-1)
embeddings = (states * mask).sum(1) / mask.sum(1)
{norm}embeddings = F.normalize(embeddings, dim=-1)"""


def _transformers(facts: CardFacts) -> str:
    norm = ", a layer norm without parameters" if facts.model.layer_norm else ""
    return (
        "### transformers\n\nThe embedding is the mean of a text's token vectors, those of the prefix and of the "
        f"special tokens among them{norm}, at unit length.\n\n"
        + code(
            "python",
            f"""
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{facts.repo_id}")
model = AutoModel.from_pretrained("{facts.repo_id}", trust_remote_code=True).eval()
{_TEXTS}
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
{_pooling(facts)}
""",
        )
    )


def _native(facts: CardFacts) -> str:
    length = facts.model.trained_length
    return (
        f"### transformers' own Nomic BERT, to {length:,} tokens\n\nRecent transformers have a class for this "
        "architecture: without `trust_remote_code` it is taken, and no code of this repository runs. Use it for texts "
        f"of at most {length:,} tokens, the length of training: longer ones it does not read as this model does.\n\n"
        + code(
            "python",
            f"""
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{facts.repo_id}")
model = AutoModel.from_pretrained("{facts.repo_id}").eval()
{_TEXTS}
batch = tokenizer(texts, padding=True, truncation=True, max_length={length}, return_tensors="pt")
{_pooling(facts)}
""",
        )
    )


def _onnx(facts: CardFacts) -> str:
    norm = ""
    if facts.model.layer_norm:
        norm = (
            "embeddings -= embeddings.mean(1, keepdims=True)\n"
            "embeddings /= np.sqrt(embeddings.var(1, keepdims=True) + 1e-5)\n"
        )
    first, *others = facts.onnx_files
    more = ""
    if others:
        more = (
            f" `{escaped(others[0])}` is the same in 8 bits, for CPUs: a quarter of the size, and close, not equal. A "
            "text's embedding by it moves a little with the texts of the same batch."
        )
    return (
        "### ONNX Runtime\n\nThe graph takes any batch and length and scales each text by its own length. It ends with "
        f"token vectors.{more}\n\n"
        + code(
            "python",
            f"""
import numpy as np
import onnxruntime
from huggingface_hub import hf_hub_download
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(hf_hub_download("{facts.repo_id}", "tokenizer.json"))
tokenizer.enable_truncation({facts.model.usable_length})
tokenizer.enable_padding()
session = onnxruntime.InferenceSession(hf_hub_download("{facts.repo_id}", "{first}"))
{_TEXTS}
encodings = tokenizer.encode_batch(texts)
ids = np.array([encoding.ids for encoding in encodings])
mask = np.array([encoding.attention_mask for encoding in encodings])
states = session.run(["last_hidden_state"], {{"input_ids": ids, "attention_mask": mask}})[0]
embeddings = (states * np.expand_dims(mask, -1)).sum(1) / mask.sum(1, keepdims=True)
{norm}embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
""",
        )
        + '\n\n`SentenceTransformer(..., backend="onnx", trust_remote_code=True)` finds the same file; it needs '
        "optimum-onnx, of which version 0.1.0 holds transformers below 4.58."
    )


def _servers(facts: CardFacts) -> str:
    """What was not run: said so."""
    repo, trained, usable = facts.repo_id, facts.model.trained_length, facts.model.usable_length
    return f"""### Servers and llama.cpp: not tested

The files carry the names and values that these programs read, by their source. **Not one of them was run with
this model**: compare a few embeddings with those above first. Write the prefix before each text yourself.

{code("bash", f"text-embeddings-router --model-id {repo} --pooling mean")}

text-embeddings-inference reads the trained length and the scaling. How it scales texts of more than {trained:,} tokens
that share a batch was not examined.

{code("bash", f"vllm serve {repo} --runner pooling --trust-remote-code --max-model-len {trained}")}

vLLM takes {trained:,} tokens for the longest text and does not scale beyond them as this model does; longer settings
have a history of wrong results.

{code("bash", _llama_cpp(repo, facts.name, min(trained, 2048)))}

llama.cpp's converter knows WordPiece tokenizers that are on its list, such as bert-base-uncased's, sets the context to
2,048 tokens, and has no dynamic NTK, so that texts of more than {min(trained, 2048):,} tokens, of the {
        usable:,} that the
model reads elsewhere, are out of its reach.{_server_norm(facts)}"""


def _llama_cpp(repo: str, name: str, length: int) -> str:
    return f"""
hf download {repo} --local-dir {name}
python convert_hf_to_gguf.py {name} --outfile {name}.gguf
llama-embedding -m {name}.gguf --pooling mean -c {length} -p "search_query: {_QUERY}"
"""


def _server_norm(facts: CardFacts) -> str:
    if not facts.model.layer_norm:
        return ""
    return (
        "\n\nThis model's embedding has a layer norm after the mean, which these programs are not known to apply: "
        "without it their embeddings are others."
    )


def shorter_embeddings(facts: CardFacts) -> str:
    """Cutting and quantizing."""
    dims, full = facts.matryoshka_dims, facts.model.dimensions
    cut = next((dim for dim in dims if dim < full), max(full // 2, 1))
    if dims:
        named = ", ".join(f"{dim:,}" for dim in dims)
        trained = f"The model was trained at {named} dimensions, so its embeddings can be cut to these."
    elif facts.training:
        trained = (
            "The last recorded training was of whole embeddings only, without Matryoshka; measure what cutting them "
            "costs before you rely on it."
        )
    else:
        trained = "Whether the model was trained to be cut is not recorded; measure what cutting costs first."
    norm = ""
    if facts.model.layer_norm:
        norm = (
            " The layer norm comes before the cut. sentence-transformers applies it, for it is among the model's "
            "modules; with transformers alone, cut after `layer_norm` and normalize then."
        )
    example = code(
        "python",
        f"""
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{facts.repo_id}", trust_remote_code=True, truncate_dim={cut})
short = model.encode_query(["{_QUERY}"], normalize_embeddings=True)
documents = ["{_DOCUMENT}"]
binary = model.encode_document(documents, normalize_embeddings=True, precision="ubinary")
""",
    )
    return (
        f"## Shorter embeddings\n\n{trained} `normalize_embeddings=True` is needed with `truncate_dim`: without it a "
        f"cut embedding is shorter than unit length.{norm}\n\n{example}\n\nA binary embedding takes a bit for each "
        'dimension. `precision="int8"` takes a byte; its ranges come from the texts of the call, so for a collection '
        "quantize all at once, with `sentence_transformers.util.quantize_embeddings` and its `calibration_embeddings`."
    )


def lengths(facts: CardFacts) -> str:
    """What happens to long texts."""
    model = facts.model
    if model.usable_length <= model.trained_length:
        return (
            f"## Lengths\n\nTexts are cut after {model.usable_length:,} tokens, prefix and special tokens included, "
            f"which is no more than the trained length of {model.trained_length:,}."
        )
    if model.scaling_factor is None:
        how = "are read without scaling, which costs quality; `rotary_scaling_factor: 2` in config.json switches it on"
    elif model.scaling_type == "dynamic":
        how = (
            f"are scaled by dynamic NTK (Eq. 5 of the paper) with alpha {model.scaling_factor:g}, each by its own "
            "length: an embedding depends on its text alone, never on the batch, on padding or on earlier calls"
        )
    else:
        equation = {"linear": "position interpolation (Eq. 3", "ntk": "NTK (Eq. 4"}[model.scaling_type]
        how = f"are read with {equation} of the paper) with factor {model.scaling_factor:g}, as are all others"
    return (
        f"## Lengths\n\nThe trained length is {model.trained_length:,} tokens, prefix and special tokens included. "
        f"Longer texts, to {model.usable_length:,}, {how}. What comes after {model.usable_length:,} tokens is cut."
    )


def readers(facts: CardFacts) -> str:
    """The table of the verification; empty where there was none."""
    if not facts.readers:
        return ""
    rows = [
        (
            escaped(agreement.reader.name),
            escaped(", ".join(f"{package} {version}" for package, version in agreement.versions.items())),
            f"{max(agreement.lengths):,}",
            f"{agreement.difference:.1e}",
        )
        for agreement in facts.readers
    ]
    return (
        "## The same embedding in every reader\n\nBefore publication each reader opened these files in a process of "
        "its own, offline, and its embeddings of texts of several lengths, at unit length, were compared with those of "
        "the checkpoint.\n\n"
        + table(["reader", "versions", "longest text, tokens", "largest difference of a component"], rows, numbers=2)
    )
