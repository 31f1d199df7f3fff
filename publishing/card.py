"""The model card: `card.md.jinja`, which reads as the card, and the facts and filters that fill it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCardData
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm
from transformers import PreTrainedModel

from nomic_bert import NomicBertConfig
from nomic_bert.configuration_nomic_bert import MINIMUM_TRANSFORMERS, ntk_base
from nomic_bert.prompts import PREFIXES, PROMPTS, prefix_text
from nomic_bert.training_record import STAGE_BEFORE, STAGES, UNRECORDED
from textfiles.hub_names import is_hub_name
from textfiles.markdown import escaped, literal, number, render_page, table

from .bert_vocabulary import is_bert_base_uncased
from .card_results import Report, Results, evaluated_models, run_length
from .reader_results import ProgramResults, read_results
from .upload import PROJECT_TAG, require_repo_id
from .verification import Agreement

_PAPER_TIMES = dict(zip(STAGES, ("about 4 days", "3.5 days", "an hour"), strict=True))  # paper Appendix A
_QUERY = "solve a banded linear system"
_DOCUMENT = "Solve the equation a @ x = b for x, where a is a banded matrix."
_HUB = "https://huggingface.co"
# Hyperparameters by the names that people know them by; others are shown by their own.
_SETTINGS = {
    "adam_beta1": "beta 1", "adam_beta2": "beta 2", "adam_epsilon": "epsilon", "max_grad_norm": "clipped at norm",
    "mlm_probability": "share of tokens to predict",
    "eval_mlm_probability": "share of tokens to predict in evaluation",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The model itself; lengths in tokens.

    Attributes:
        parameters: number of the encoder's parameters.
        layers: number of the encoder's layers.
        dimensions: of an embedding.
        head_dim: width of an attention head.
        vocabulary: rows of the word embedding.
        trained_length: longest text of the training.
        usable_length: length to which texts are truncated.
        positions: `n_positions` of the configuration.
        rotary_base: RoPE's base theta.
        scaling_factor: how far RoPE is scaled beyond the trained length; None: not at all.
        scaling_type: "dynamic" (Eq. 5), "linear" (Eq. 3) or "ntk" (Eq. 4).
        layer_norm: whether the mean is normalized without parameters before it is scaled to unit length.
        prompts: prompt name -> text put before the model's input.
        bert_vocabulary: whether the tokenizer is bert-base-uncased's, which llama.cpp's converter knows.
    """

    parameters: int
    layers: int
    dimensions: int
    head_dim: int
    vocabulary: int
    trained_length: int
    usable_length: int
    positions: int
    rotary_base: float
    scaling_factor: float | None
    scaling_type: str
    layer_norm: bool
    prompts: Mapping[str, str]
    bert_vocabulary: bool

    @property
    def is_scaled_by_eq_5(self) -> bool:
        """Whether RoPE is scaled for each text by its own length, beyond the trained one."""
        return self.scaling_type == "dynamic" and self.scaling_factor is not None

    @property
    def length_without_eq_5(self) -> int:
        """Longest text, in tokens, of which a program without Eq. 5 gives the embedding."""
        return min(self.trained_length, self.usable_length) if self.is_scaled_by_eq_5 else self.usable_length

    @property
    def opens_in_llama_cpp(self) -> bool:
        """Whether llama.cpp's converter takes the lengths and the vocabulary, and the result is this model's."""
        known = (self.positions, self.trained_length) == (8192, 2048) and self.bert_vocabulary
        return known and not self.layer_norm and self.scaling_type == "dynamic"

    @property
    def opens_in_text_embeddings_inference(self) -> bool:
        """Whether text-embeddings-inference to 1.9.3 parses the configuration, and the result is this model's."""
        # for any other trained length config.json has n_positions and max_position_embeddings, one field to it; it
        # knows the factor of Eq. 5 alone
        return self.trained_length == 2048 and not self.layer_norm and self.scaling_type == "dynamic"

    def base_at(self, length: int) -> float:
        """RoPE's base for one text of a length, by Eq. 5."""
        alpha = cast(float, self.scaling_factor)
        return float(ntk_base(self.rotary_base, alpha * length / self.trained_length - (alpha - 1), self.head_dim))


def describe_model(embedder: SentenceTransformer) -> ModelFacts:
    """The facts of an embedder of ours."""
    encoder = cast(PreTrainedModel, embedder[0].auto_model)
    config = cast(NomicBertConfig, encoder.config)
    return ModelFacts(
        parameters=encoder.num_parameters(),
        layers=config.num_hidden_layers,
        dimensions=config.hidden_size,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
        trained_length=config.max_trained_positions,
        usable_length=int(embedder.max_seq_length or config.n_positions),
        positions=config.n_positions,
        rotary_base=float(config.rotary_emb_base),
        scaling_factor=config.rotary_scaling_factor or None,
        scaling_type=config.rotary_scaling_type,
        layer_norm=any(isinstance(module, LayerNorm) for module in embedder),
        prompts={name: text for name, text in embedder.prompts.items() if text},
        bert_vocabulary=is_bert_base_uncased(embedder.tokenizer),
    )


def tried_programs(model: ModelFacts) -> ProgramResults | None:
    """What `make readers` found on a directory of the model's kind; None: it was not run."""
    results = read_results()
    if results is None:
        return None
    if model.layer_norm:
        return results.directories.get("matryoshka")
    return results.directories.get("bert" if model.bert_vocabulary else "quickstart", results.directories.get("bert"))


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        repo_id: "owner/name", which the code of the card opens.
        model: the model itself.
        weights: `nomic_bert.identity.weights_hash` of the embedder, by which its results are known.
        readers: how the readers agreed; empty: not tried.
        training: the stages, as `nomic_bert.training_record` has them; empty: not recorded.
        report: report.json of `python -m evaluation.report`; None: not evaluated.
        license: identifier of the hub, such as "apache-2.0"; None: none is stated.
        languages: ISO 639 codes; empty: not stated.
        exported_files: paths of ONNX and OpenVINO files in the repository.
        other_programs: what `make readers` found, as `tried_programs` has it; None: not run.
    """

    repo_id: str
    model: ModelFacts
    weights: str
    readers: Sequence[Agreement] = ()
    training: Sequence[Mapping[str, Any]] = ()
    report: Report | None = None
    license: str | None = None
    languages: Sequence[str] = ()
    exported_files: Sequence[str] = ()
    other_programs: ProgramResults | None = None

    @property
    def name(self) -> str:
        """Of the model, without its owner."""
        return self.repo_id.split("/")[-1]

    @property
    def matryoshka_dims(self) -> list[int]:
        """Dimensions of the last stage's Matryoshka loss, falling; empty where it had none."""
        last = self.training[-1] if self.training else {}
        return sorted((last.get("hyperparameters") or {}).get("matryoshka_dims") or [], reverse=True)

    @property
    def shorter_dims(self) -> list[int]:
        """Dimensions to which embeddings were trained to be truncated."""
        return [dim for dim in self.matryoshka_dims if dim < self.model.dimensions]

    @property
    def has_paper_prompts(self) -> bool:
        """Whether the prompts are the paper's."""
        return all(self.model.prompts.get(name) == text for name, text in PROMPTS.items())

    @property
    def trained_prefixes(self) -> list[str]:
        """Prefixes of the recorded sources, each once."""
        sources = [source for stage in self.training for source in stage.get("sources") or []]
        sides = ("query_prefix", "document_prefix")
        return list(dict.fromkeys(source[side] for source in sources for side in sides if side in source))

    @property
    def untrained_prefixes(self) -> list[str]:
        """The paper's other prefixes."""
        return [prefix_text(name) for name in PREFIXES if prefix_text(name) not in self.trained_prefixes]

    @cached_property
    def results(self) -> list[Results]:
        """Results of these weights, one for each way in which they were asked.

        Raises:
            ValueError: the report has nothing for these weights.
        """
        report = self.report
        return [] if report is None else [Results(report, model) for model in evaluated_models(report, self.weights)]

    @property
    def longest_evaluated(self) -> int | None:
        """Longest length at which a task was finished, in tokens."""
        runs = [run for result in self.results for run in result.runs]
        return max((run["length"] or 0 for run in runs if run["scores"]), default=None) or None

    def prefix(self, side: str) -> str:
        """The text put before a "query" or "document"."""
        return self.model.prompts.get(side, "")

    def metadata(self) -> ModelCardData:
        """What the hub reads: tags, licence, languages, base model, data sets, results."""
        tags = ["sentence-transformers", "feature-extraction", "sentence-similarity", "transformers", "nomic_bert"]
        tags += [PROJECT_TAG, "custom_code"]
        tags += sorted({file.split("/")[0] for file in self.exported_files})  # onnx, openvino
        scores = [score for result in self.results for score in result.hub_scores()]
        first_of_each = {score.dataset_name: score for score in reversed(scores)}
        if first_of_each or any(result.is_on_mteb for result in self.results):
            tags.append("mteb")
        return ModelCardData(
            language=list(self.languages) or None,
            license=self.license,
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            tags=tags,
            base_model=_base_model(self.training),
            datasets=_datasets(self.training) or None,
            model_name=self.name if first_of_each else None,
            eval_results=[first_of_each[name] for name in sorted(first_of_each)] or None,
        )


def model_card(card: CardFacts) -> str:
    """README.md of the hub repository.

    Raises:
        ValueError: the repository's name is invalid, or the report has nothing for the weights.
    """
    require_repo_id(card.repo_id)
    return render_page(
        Path(__file__).with_name("card.md.jinja"),
        {
            "card": card,
            "model": card.model,
            "repo": card.repo_id,
            "query": _QUERY,
            "document": _DOCUMENT,
            "minimum_transformers": MINIMUM_TRANSFORMERS,
            "paper_times": _PAPER_TIMES,
            "stage_before": STAGE_BEFORE,
            "unrecorded": UNRECORDED,
        },
        {
            "counted": lambda devices: " and ".join(f"{number(n)} x {escaped(name)}" for name, n in devices.items()),
            "dataset_link": _dataset_link,
            "duration": _duration,
            "is_hub_name": lambda name: isinstance(name, str) and is_hub_name(name),
            "run_length": run_length,
            "setting_name": lambda key: _SETTINGS.get(key, escaped(key.replace("_", " "))),
            "source_table": _source_table,
        },
    )


def _base_model(stages: Sequence[Mapping[str, Any]]) -> str | None:
    """The hub name that the first stage started from, if any."""
    start = stages[0].get("start") if stages else None
    return start if isinstance(start, str) and is_hub_name(start) else None


def _datasets(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Hub names of the data sets among the sources, each once."""
    sources = [source for stage in stages for source in stage.get("sources") or []]
    names = [part.get("dataset") for source in sources for part in [source, *(source.get("parts") or [])]]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and is_hub_name(name)))


def _duration(seconds: float) -> str:
    """Seconds for people: 40 seconds, 12.5 minutes, 3.2 hours, 3.5 days."""
    units = (("days", 86_400), ("hours", 3_600), ("minutes", 60))
    name, size = next(((name, size) for name, size in units if seconds >= 1.5 * size), ("seconds", 1))
    return f"{seconds / size:.3g} {name}"


def _dataset_link(source: Mapping[str, Any]) -> str:
    name = source.get("dataset")
    if not isinstance(name, str) or not is_hub_name(name):
        return ""
    details = [f"{key} {escaped(source[key])}" for key in ("subset", "split", "revision") if source.get(key)]
    return ", ".join([f"[{escaped(name)}]({_HUB}/datasets/{name})", *details])


def _source_table(sources: Iterable[Mapping[str, Any]]) -> str:
    """A stage's sources, with the columns that any of them fills."""
    columns = {
        "source": lambda s: escaped(s.get("name", "")),
        "data set": _dataset_link,
        "rows": lambda s: number(s.get("rows", "")),
        "tokens a row": lambda s: number(s.get("block_size", "")),
        "passes an epoch": lambda s: number(s.get("weight", "")),
        "batches an epoch": lambda s: number(s.get("batches_per_epoch", "")),
        "query prefix": lambda s: literal(s["query_prefix"]) if "query_prefix" in s else "",
        "document prefix": lambda s: literal(s["document_prefix"]) if "document_prefix" in s else "",
        "hard negatives a row": lambda s: number(s.get("hard_negatives") or ""),
        "rows left out, without negatives": lambda s: number(s.get("rows_without_negatives") or ""),
    }
    cells = {title: [show(source) for source in sources] for title, show in columns.items()}
    filled = {title: column for title, column in cells.items() if any(column)}
    return table(list(filled), list(zip(*filled.values(), strict=True)))
