"""The steps of the quickstart, each of which leaves one file or directory that appears when it is whole."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase, set_seed

from curation.atlas.points import PAGE
from curation.packing import MANIFEST
from curation.tokenizer import train_tokenizer
from evaluation.plots import plot_embedding_map, plot_loss_curves, plot_scores
from evaluation.retrieval import RetrievalSet, evaluate_bm25, evaluate_embedder, evaluate_fused
from nomic_bert import NomicBertForMaskedLM
from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.prompts import PROMPTS
from nomic_bert.tokenizer_files import open_tokenizer
from nomic_bert.training_record import read_training, write_training
from publishing.readers import READERS, Probe, read_embeddings
from recipes.quickstart_text.corpus import CorpusSettings, build_corpus
from recipes.quickstart_text.index import build_index, indexed_points, search
from recipes.quickstart_text.word_vectors import count_word_vectors
from recipes.shared.arguments import parse_arguments
from recipes.shared.training import FINAL
from recipes.steps.map import require_libraries, save_map
from recipes.steps.stage1 import build_model
from textfiles.atomic import read_json, write_json, write_text
from textfiles.begun import begin_directory, use_alone
from textfiles.commands import end_at_sigterm, one_line_errors, run_child
from textfiles.markdown import table
from textfiles.replacing import replaceable_directory
from textfiles.rows import rows_of

RECIPES = Path(__file__).resolve().parents[1]
CONFIGS = RECIPES / "configs" / "quickstart"
QUESTION = "solve a banded linear system"


@dataclass(kw_only=True)
class QuickstartArguments:
    """What a person can choose of the quickstart.

    Attributes:
        output_dir: directory for everything that it makes; null: outputs/quickstart, or outputs/smoke.
        smoke: the same over a slice of the text, in about two minutes.
        seed: of the weights, the weak pairs and the order of training; what is held out is the same for every seed.
    """

    output_dir: str | None = None
    smoke: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class QuickstartSettings:
    """What the quickstart does beyond its corpus and its stages, whose configs stand beside it.

    Attributes:
        model: fields of `NomicBertConfig`.
        block_size: tokens in a block of stage 1.
        eval_max_seq_length: tokens of a text that are read in the evaluation.
        index_packages: packages whose functions can be searched.
        index_max_seq_length: tokens of a documentation string that the search reads.
        required_gain: nDCG@10 points that the contrastive stages must add to stage 1, or the run fails.
    """

    model: dict
    block_size: int
    eval_max_seq_length: int
    index_packages: list
    index_max_seq_length: int
    required_gain: float


class Quickstart:
    """The steps, each of which leaves one file or directory that appears when it is whole."""

    def __init__(self, output_dir: Path, smoke: bool, seed: int = 0) -> None:
        self.directory, self.smoke, self.seed = output_dir, smoke, seed
        self.corpus_settings, self.settings = parse_arguments(
            (CorpusSettings, QuickstartSettings), self._configs("quickstart")
        )
        self.corpus, self.tokenizer, self.blocks = (output_dir / name for name in ("corpus", "tokenizer", "blocks"))
        self.negatives, self.model, self.map = (output_dir / name for name in ("negatives", "model", "map"))
        self.models = {
            "untrained": output_dir / "untrained",
            "word vectors": output_dir / "word_vectors",
            **{f"stage {number}": output_dir / f"stage{number}" / FINAL for number in (1, 2, 3)},
        }

    def run(self) -> None:
        """Run every step that has not been run."""
        self._begin()
        started, stages = time.time(), self.models
        sources = self._sources
        steps: list[tuple[str, Path, Callable[[], None]]] = [
            ("Read docstrings", self.corpus, lambda: build_corpus(self.corpus_settings, self.corpus, self.seed)),
            ("Train a tokenizer", self.tokenizer, self._train_tokenizer),
            ("Pack documents into blocks", self.blocks / MANIFEST, self._pack),
            ("Make the untrained model", stages["untrained"], self._make_untrained),
            ("Count word vectors", stages["word vectors"], self._count_word_vectors),
            ("Stage 1: masked language modelling", stages["stage 1"], self._stage1),
            (
                "Stage 2: contrastive on summary -> body",
                stages["stage 2"],
                lambda: self._contrastive(2, "stage 1", sources(self.corpus / "stage2")),
            ),
            ("Mine hard negatives with stage 2", self.negatives / "done", self._mine),
            (
                "Stage 3: contrastive with hard negatives",
                stages["stage 3"],
                lambda: self._contrastive(3, "stage 2", self._mined_sources()),
            ),
            ("Export the model", self.model, self._export),
            ("Evaluate on held-out functions", self.directory / "scores.json", self._evaluate),
            ("Draw", self.directory / "map.png", self._draw),
            ("Index functions for search", self.model / "search_index", self._index),
            ("Draw a map of functions", self.map / PAGE, self._draw_map),
        ]
        for number, (title, output, make) in enumerate(steps, 1):
            done = output.exists()
            print(f"\n[{number}/{len(steps)}] {title}" + (": done before" if done else ""), flush=True)
            if not done:
                since = time.time()
                make()
                print(f"[{number}/{len(steps)}] took {time.time() - since:.0f} s", flush=True)
        self._report(time.time() - started)

    def _places(self) -> list[str]:
        """The folders of the quickstart's numbers, each of which changes some of those before it."""
        return ["", *(["smoke"] if self.smoke else [])]

    def _configs(self, name: str) -> list[str]:
        """`--config` for the numbers of a step."""
        files = [CONFIGS / place / f"{name}.yaml" for place in self._places()]
        return [word for file in files if file.exists() for word in ("--config", str(file))]

    def _begin(self) -> None:
        use_alone(self.directory)
        settings = asdict(self.corpus_settings) | asdict(self.settings)
        begin_directory(self.directory, settings | {"--seed": self.seed, "configs": self._places()})

    def _recipe(self, script: str, name: str, **overrides: Any) -> None:
        """Run a recipe as a person would, in a process of its own."""
        command = [sys.executable, str(RECIPES / script), *self._configs(name)]
        for key, value in overrides.items():
            command += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        if run_child(command):
            raise SystemExit(f"error: {script} failed, see above. Rerun the quickstart to resume from here.")

    def _sources(self, directory: Path) -> list[dict[str, str]]:
        prefixes = {"query_prefix": "search_query", "document_prefix": "search_document"}
        files = sorted(directory.glob("*.jsonl.gz"))
        return [{"name": f.name.split(".")[0], "path": str(f), **prefixes} for f in files]

    def _mined_sources(self) -> list[dict[str, str]]:
        sources = self._sources(self.corpus / "stage3")
        return [{**s, "path": str(self.negatives / s["name"]), "negatives": "negatives"} for s in sources]

    def _texts(self) -> list[str]:
        return [row["text"] for row in rows_of(self.corpus / "documents.jsonl.gz")]

    def _train_tokenizer(self) -> None:
        train_tokenizer(self._texts(), self.corpus_settings.vocab_size, self.tokenizer)

    def _pack(self) -> None:
        documents = [str(self.corpus / "documents.jsonl.gz")]
        self._recipe(
            "pack_corpus.py", "pack_corpus", documents=documents, tokenizer=str(self.tokenizer),
            output_dir=str(self.blocks), block_size=self.settings.block_size,
        )  # fmt: skip

    def _make_untrained(self) -> None:
        set_seed(self.seed)
        tokenizer = open_tokenizer(self.tokenizer)
        self._save_new("untrained", build_model(self.settings.model, len(tokenizer)), tokenizer)

    def _count_word_vectors(self) -> None:
        """Give the untrained model word vectors to begin with; tokens that no text has keep their random ones."""
        tokenizer = open_tokenizer(self.models["untrained"])
        model = NomicBertForMaskedLM.from_pretrained(self.models["untrained"])
        weight = model.get_input_embeddings().weight.data
        vectors = torch.from_numpy(count_word_vectors(self._texts(), tokenizer, weight.shape[1], self.seed))
        counted = vectors.any(dim=1).nonzero().flatten()
        weight[counted] = vectors[counted] * model.config.initializer_range
        self._save_new("word vectors", model, tokenizer)

    def _save_new(self, name: str, model: NomicBertForMaskedLM, tokenizer: PreTrainedTokenizerBase) -> None:
        with replaceable_directory(self.models[name]) as directory:
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
            write_training(directory, [])  # new weights, which stage 1 is to know

    def _stage1(self) -> None:
        self._recipe(
            "stage1.py", "stage1", train_data=str(self.blocks), tokenizer=str(self.tokenizer),
            model_name_or_path=str(self.models["word vectors"]), output_dir=str(self.directory / "stage1"),
            seed=self.seed,
        )  # fmt: skip

    def _contrastive(self, number: int, start: str, sources: list[dict[str, str]]) -> None:
        self._recipe(
            f"stage{number}.py", f"stage{number}", model_name_or_path=str(self.models[start]), sources=sources,
            output_dir=str(self.directory / f"stage{number}"), seed=self.seed,
        )  # fmt: skip

    def _mine(self) -> None:
        self._recipe(
            "mine_negatives.py", "mine_negatives", model_name_or_path=str(self.models["stage 2"]),
            sources=self._sources(self.corpus / "stage3"), output_dir=str(self.negatives),
            seed=self.seed,
        )  # fmt: skip
        (self.negatives / "done").touch()

    def _export(self) -> None:
        """Write the model and open it again in a fresh process that does not import this project."""
        embedder = load_embedder(self.models["stage 3"], dtype=torch.float32)  # on a GPU it would be half
        save_embedder(embedder, self.model, training=read_training(self.models["stage 3"]))
        probe = Probe(
            QUESTION, len(embedder.tokenizer(PROMPTS["query"] + QUESTION)["input_ids"]), PROMPTS["query"], "query"
        )
        reader = next(reader for reader in READERS if reader.key == "sentence-transformers/remote")
        ((found, _),) = read_embeddings([reader], self.model, [probe], [])
        difference = np.abs(found[0] - embedder.encode_query(QUESTION)).max()
        print(f"Reloaded in a fresh process with trust_remote_code: largest difference {difference:.1e}")
        if difference > 1e-5:
            raise SystemExit("error: the exported model does not give the same embedding in a fresh process.")

    def _held_out(self) -> dict[str, list[dict[str, Any]]]:
        return {part: list(rows_of(self.corpus / f"held_out_{part}.jsonl.gz")) for part in ("seen", "unseen")}

    def _evaluate(self) -> None:
        sets = {part: RetrievalSet.from_pairs(rows) for part, rows in self._held_out().items()}
        scores = {"BM25": {part: evaluate_bm25(retrieval_set) for part, retrieval_set in sets.items()}}
        for name, directory in self.models.items():
            print(f"Evaluating {name}", flush=True)
            model = self._embedder(directory)
            scores[name] = {part: evaluate_embedder(model, retrieval_set) for part, retrieval_set in sets.items()}
        scores["stage 3 and BM25"] = {part: evaluate_fused(model, each) for part, each in sets.items()}
        write_json(self.directory / "scores.json", scores)

    def _scores(self) -> dict[str, dict[str, dict[str, float]]]:
        return read_json(self.directory / "scores.json", "Remove it and rerun the quickstart to evaluate again.")

    def _embedder(self, directory: Path) -> SentenceTransformer:
        return load_embedder(directory, max_seq_length=self.settings.eval_max_seq_length)

    def _draw(self) -> None:
        scores = self._scores()
        bars = {name: {part: values["ndcg@10"] for part, values in row.items()} for name, row in scores.items()}
        plot_scores(bars, self.directory / "scores.png", xlabel="nDCG@10")
        states = {f"stage {n}": self.directory / f"stage{n}" / "trainer_state.json" for n in (1, 2, 3)}
        remedy = f"Remove {self.directory} to start anew."
        histories = {name: read_json(state, remedy)["log_history"] for name, state in states.items()}
        plot_loss_curves(histories, self.directory / "loss.png")
        rows = [row for part in self._held_out().values() for row in part][:: 1 if self.smoke else 2]
        embeddings = self._embedder(self.model).encode_document([row["document"] for row in rows])
        title = "Held-out documentation, by package"
        plot_embedding_map(embeddings, [row["package"] for row in rows], self.directory / "map.png", title)

    def _index(self) -> None:
        build_index(self.model, self.settings.index_packages, self.settings.index_max_seq_length)

    def _draw_map(self) -> None:
        try:
            require_libraries()
        except ValueError as error:  # everything else is made without them
            print(f"No map: {error}")
            return
        points, vectors = indexed_points(self.model)
        title = f"Functions of {', '.join(self.settings.index_packages)}"
        save_map(self.map, points, vectors, title=title, model="quickstart/model")

    def _report(self, seconds: float) -> None:
        """Print and write the scores; fail where training did not help."""
        scores = self._scores()
        counts = read_json(self.corpus / "counts.json", f"Remove {self.directory} to start anew.")
        columns = [(part, metric) for part in ("seen", "unseen") for metric in ("ndcg@10", "recall@10")]
        rows = [[name, *(f"{row[part][metric]:.1f}" for part, metric in columns)] for name, row in scores.items()]
        header = ["model", "seen packages, nDCG@10", "recall@10", "unseen packages, nDCG@10", "recall@10"]
        scores_table = table(header, rows, numbers=len(columns))
        held_out = f"{counts['held_out_seen']:,} held-out pairs of packages that were trained on, and "
        held_out += f"{counts['held_out_unseen']:,} of {' and '.join(self.corpus_settings.unseen_packages)}."
        write_text(self.directory / "report.md", f"{scores_table}\n\n{held_out}\n")
        print(f"\n{scores_table}\n\n{held_out}\n\nSearch for {QUESTION!r}:")
        for score, name, summary in search(self.model, QUESTION, top=3):
            print(f"  {score:.3f}  {name}: {summary[:80]}")
        print(f"\nModel: {self.model}\nPlots: {self.directory}/loss.png, map.png, scores.png")
        print(f"Map:   open {self.map / PAGE} in a browser" if (self.map / PAGE).exists() else "Map:   none was drawn")
        print(f'Try:   python recipes/search.py {self.model} "shortest path between two nodes"')
        print(f"Time:  {seconds / 60:.1f} minutes, this run's steps together")
        self._require_gain(scores)

    def _require_gain(self, scores: dict[str, dict[str, dict[str, float]]]) -> None:
        """Fail where contrastive training did not help."""
        for part in ("seen", "unseen"):
            gain = scores["stage 3"][part]["ndcg@10"] - scores["stage 1"][part]["ndcg@10"]
            if gain < self.settings.required_gain:
                raise SystemExit(
                    f"error: stages 2 and 3 gained {gain:.1f} points of nDCG@10 on {part} packages, "
                    f"less than the {self.settings.required_gain:g} that it should."
                )


def quickstart(args: QuickstartArguments) -> None:
    """Run every step that has not been run."""
    end_at_sigterm()  # with the stage that is running
    output_dir = Path(args.output_dir or ("outputs/smoke" if args.smoke else "outputs/quickstart"))
    with one_line_errors():
        Quickstart(output_dir, args.smoke, args.seed).run()
