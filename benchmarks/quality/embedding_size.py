"""What smaller embeddings cost: similarity and retrieval with fewer dimensions, in float32, int8 and bits.

python benchmarks/quality/embedding_size.py --models NAME=DIR... --data DIR --cache DIR --output results
    [--dimensions 256 128 64 32 16] [--tokens 128]

Models are directories that sentence-transformers opens. Every text is encoded once, in float32 at full width; the rest
follows from that, after it has been compared with what `encode` itself gives for each dimension and precision.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm
from tqdm.auto import tqdm

from benchmarks.measure import write_results
from benchmarks.quality.contrastive_data import RETRIEVAL_SETS
from benchmarks.quality.contrastive_scores import Draws, EvaluationSets, resampled
from benchmarks.quality.embedding_size_report import WITH_LAYER_NORM, WITHOUT_LAYER_NORM, Measured, Report, Size
from benchmarks.quality.quantized_scores import (
    CODES,
    PRECISIONS,
    Codes,
    bits_of,
    codes_of,
    cut,
    found_documents,
    layer_normed,
    pair_similarities,
)
from benchmarks.quality.retrieval_scores import ndcg
from benchmarks.quality.stage1 import named_path
from nomic_bert import NomicBertConfig
from nomic_bert.embedder import load_embedder
from nomic_bert.encoding import encode_by_tokens
from nomic_bert.files import atomic_file
from nomic_bert.identity import weights_hash

_SMALLEST = 16  # dimensions, where none are given
_SAMPLE = 100  # sentences encoded in each way that users have
_TOLERANCE = 1e-5  # of the values of an embedding

Sides = tuple[np.ndarray, np.ndarray]  # embeddings of first and second sentences, or of queries and documents


def read_sets(data: Path) -> EvaluationSets:
    """The similarity sets and the retrieval sets under `data`."""
    return EvaluationSets.read(data, retrieval_sets=(*RETRIEVAL_SETS, "xquad_en"))


class Model:
    """An embedder, and the same without the layer norm at its end: all else follows from the embeddings of that.

    Args:
        path: directory.
        tokens: after which texts are cut, where the model's own limit is not lower.
        device: of torch.

    Attributes:
        embedder: as its users have it.
        bare: without layer norm.
        has_layer_norm: whether they differ.

    Raises:
        FileNotFoundError: the path is no directory.
    """

    def __init__(self, path: str, tokens: int, device: str) -> None:
        if not Path(path).is_dir():
            raise FileNotFoundError(f"{path} is no directory; give that of a sentence-transformers model.")
        config = Path(path, "config.json")
        ours = config.is_file() and json.loads(config.read_text()).get("model_type") == NomicBertConfig.model_type
        self.embedder = load_embedder(path, device=device) if ours else SentenceTransformer(path, device=device)
        self.embedder.max_seq_length = min(tokens, self.embedder.max_seq_length or tokens)
        modules = list(self.embedder)
        kept = [module for module in modules if not _is_free_of_parameters(module)]
        self.has_layer_norm = len(kept) < len(modules)
        self.bare = SentenceTransformer(modules=kept, device=device)

    def dimensions(self, wanted: Sequence[int]) -> list[int]:
        """The full width and those of `wanted` below it; of none, its halves down to 16."""
        full = self.embedder.get_embedding_dimension()
        assert full is not None
        halves = [full // 2**power for power in range(1, full.bit_length()) if full // 2**power >= _SMALLEST]
        return [full, *sorted({each for each in wanted or halves if each < full}, reverse=True)]


def _is_free_of_parameters(module: torch.nn.Module) -> bool:
    """Whether it is a layer norm that only normalizes."""
    return isinstance(module, LayerNorm) and bool((module.norm.weight == 1).all() and (module.norm.bias == 0).all())


class KeptEmbeddings:
    """Embeddings of a model at full width, kept in files by what they were made from.

    Args:
        directory: of the files; made if it is not there.
        embedder: that encodes.
        tokens_per_batch: that are encoded at once.
    """

    def __init__(self, directory: Path, embedder: SentenceTransformer, tokens_per_batch: int) -> None:
        self._directory, self._embedder, self._tokens_per_batch = directory, embedder, tokens_per_batch
        # the modules' own words say what weights do not, such as how tokens are pooled
        self._model = [weights_hash(embedder), repr(embedder), embedder.max_seq_length]

    def get(self, texts: Sequence[str], prompt: str, description: str) -> np.ndarray:
        """Unit embeddings (n, dim) in float32."""
        key = hashlib.sha256(json.dumps([*self._model, prompt, list(texts)]).encode()).hexdigest()[:24]
        path = self._directory / f"{key}.npy"
        if path.exists():
            return np.load(path)
        embeddings = encode_by_tokens(
            self._embedder, texts, prompt=prompt, tokens_per_batch=self._tokens_per_batch, normalize=True,
            description=description,
        )  # fmt: skip
        with atomic_file(path) as partial, open(partial, "wb") as file:
            np.save(file, embeddings)
        return embeddings


def encoded(model: Model, sets: EvaluationSets, kept: KeptEmbeddings) -> dict[str, Sides]:
    """Set -> embeddings by `model.bare`, under the model's prompts "STS", or "query" and "document", if it has them."""
    prompts = {name: model.embedder.prompts.get(name) or "" for name in ("STS", "query", "document")}
    sides = {}
    for name, pairs in sets.similarity.items():
        first, second = (kept.get(texts, prompts["STS"], name) for texts in (pairs.first, pairs.second))
        sides[name] = first, second
    for name, each in sets.retrieval.items():
        queries = kept.get(list(each.queries.values()), prompts["query"], f"{name}, queries")
        sides[name] = queries, kept.get(list(each.documents.values()), prompts["document"], name)
    return sides


def require_same_as_encode(model: Model, dimensions: Sequence[int], texts: list[str], tokens_per_batch: int) -> None:
    """Compare what is scored here with what users get from `encode` in the same way.

    Args:
        model: whose embeddings are compared.
        dimensions: to cut at.
        texts: that are encoded, and that int8 takes its ranges from.
        tokens_per_batch: as in `encode_by_tokens`.

    Raises:
        ValueError: an embedding differs by more than float noise; says at which dimension and precision.
    """
    bare = encode_by_tokens(model.bare, texts, tokens_per_batch=tokens_per_batch, normalize=True)
    as_used = layer_normed(bare) if model.has_layer_norm else bare
    ways = [(dimension, codes) for dimension in dimensions for codes in CODES]
    for dimension, codes in tqdm(ways, unit="way", desc="comparing with encode", leave=False):
        own = cut(as_used, dimension)
        theirs = model.embedder.encode(
            texts, prompt="", truncate_dim=dimension, normalize_embeddings=True, precision=codes,
            show_progress_bar=False,
        )  # fmt: skip
        if apart := _apart(own, theirs, codes):
            raise ValueError(f"{codes} at {dimension} dimensions is not what encode gives: {apart}.")


def _apart(own: np.ndarray, theirs: np.ndarray, codes: Codes) -> str | None:
    """How the codes of `own` (n, dim) differ from `theirs`, beyond noise in values that are about to be rounded."""
    found = codes_of(own, codes)
    if found.shape != theirs.shape or found.dtype != theirs.dtype:
        return f"{theirs.dtype} {theirs.shape} there, {found.dtype} {found.shape} here"
    if codes == "binary":
        own_bits, their_bits = (bits_of(each, own.shape[1]) for each in (found, theirs))
        wrong = (own_bits != their_bits) & (np.abs(own) > _TOLERANCE)
        return f"{wrong.sum():,} bits" if wrong.any() else None
    apart = np.abs(found.astype(np.float32) - theirs.astype(np.float32)).max()
    return f"by {apart:.2g}" if apart > (_TOLERANCE if codes == "float32" else 1) else None


def scores_of(sides: Mapping[str, Sides], sets: EvaluationSets, size: Size) -> dict[str, np.ndarray]:
    """Set -> similarities of its pairs, or nDCG@10 of its queries; without the pairs if the precision is a search's.

    Args:
        sides: embeddings at full width.
        sets: that they are of.
        size: to which they are brought.
    """
    scores = {}
    for codes in (codes for codes in CODES if codes == size.precision):
        for name in sets.similarity:
            first, second = (cut(each, size.dimension) for each in sides[name])
            scores[name] = pair_similarities(first, second, codes)
    for name, each in sets.retrieval.items():
        queries, documents = (cut(side, size.dimension) for side in sides[name])
        ids = np.array(list(each.documents))
        scores[name] = ndcg(each, ids[found_documents(queries, documents, size.precision)].tolist())
    return scores


def measure(name: str, model: Model, sets: EvaluationSets, sides: Mapping[str, Sides], dims: list[int]) -> Measured:
    """Score a model at every size, and in float32 with and without a layer norm before the cut."""
    normed = {each: (layer_normed(first), layer_normed(second)) for each, (first, second) in sides.items()}
    sizes = [Size(dimension, precision) for dimension in dims for precision in PRECISIONS]
    scores: dict[str, dict[str, np.ndarray]] = {}
    for size in tqdm(sizes, unit="size", desc=f"{name}: scoring", leave=False):
        scores[str(size)] = scores_of(normed if model.has_layer_norm else sides, sets, size)
    for label, each in ((WITH_LAYER_NORM, normed), (WITHOUT_LAYER_NORM, sides)):
        for dimension in dims:
            scores[f"{dimension} {label}"] = scores_of(each, sets, Size(dimension, "float32"))
    return Measured(name, dims, model.has_layer_norm, resampled_by_set(scores, sets, f"{name}: resampling"))


def resampled_by_set(
    scores: Mapping[str, Mapping[str, np.ndarray]], sets: EvaluationSets, description: str
) -> dict[str, dict[str, Draws]]:
    """As `resampled`, with progress: a set of pairs takes a while."""
    draws: dict[str, dict[str, Draws]] = {size: {} for size in scores}
    parts = [EvaluationSets({name: pairs}, {}) for name, pairs in sets.similarity.items()]
    parts += [EvaluationSets({}, {name: retrieval}) for name, retrieval in sets.retrieval.items()]
    for part in tqdm(parts, unit="set", desc=description, leave=False):
        for size, by_set in resampled(part, scores).items():
            draws[size].update(by_set)
    return draws


def run(args: argparse.Namespace) -> None:
    """Encode, compare, score, and write table, figures and plot."""
    sets = read_sets(Path(args.data))
    sample = next(iter(sets.similarity.values())).first[:_SAMPLE]
    measured = []
    for name, path in map(named_path, args.models):
        print(name, flush=True)
        model = Model(path, args.tokens, args.device)
        dimensions = model.dimensions(args.dimensions)
        require_same_as_encode(model, dimensions, sample, args.tokens_per_batch)
        sides = encoded(model, sets, KeptEmbeddings(Path(args.cache), model.bare, args.tokens_per_batch))
        measured.append(measure(name, model, sets, sides, dimensions))
    report = Report(measured, sets)
    table = report.markdown(args.tokens)
    print(table)
    page = write_results("embedding_size", {"tokens": args.tokens, **report.figures()}, table, Path(args.output))
    report.plot(page.with_suffix(".png"))


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=DIR", help="sentence-transformers models")
    parser.add_argument("--data", required=True, metavar="DIR", help="has sts and retrieval")
    parser.add_argument("--cache", required=True, metavar="DIR", help="where embeddings are kept between runs")
    parser.add_argument(
        "--dimensions", nargs="+", type=int, default=[], help="besides a model's own (default: its halves down to 16)"
    )
    parser.add_argument("--tokens", type=int, default=128, help="of a text that are read (default 128)")
    parser.add_argument("--tokens_per_batch", type=int, default=4096, help="encoded at once (default 4,096)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", required=True, metavar="DIR", help="directory for the dated results")
    args = parser.parse_args(argv)
    if any(dimension < 1 for dimension in args.dimensions):
        parser.error("--dimensions must be 1 or more.")
    try:
        run(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
