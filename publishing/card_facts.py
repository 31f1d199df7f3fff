"""What a model card is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm
from transformers import PreTrainedModel

from nomic_bert import NomicBertConfig

from .verification import Agreement


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The model itself.

    Attributes:
        parameters: of the encoder.
        layers: of the encoder.
        dimensions: of an embedding.
        vocabulary: rows of the word embedding.
        trained_length: in tokens.
        usable_length: tokens after which texts are cut.
        scaling_factor: how far RoPE is scaled beyond the trained length; None: not at all.
        scaling_type: "dynamic" (Eq. 5), "linear" (Eq. 3) or "ntk" (Eq. 4).
        layer_norm: whether the embedding is normalized without parameters before it is brought to unit length.
    """

    parameters: int
    layers: int
    dimensions: int
    vocabulary: int
    trained_length: int
    usable_length: int
    scaling_factor: float | None
    scaling_type: str
    layer_norm: bool


def describe_model(embedder: SentenceTransformer) -> ModelFacts:
    """The facts of an embedder of ours."""
    encoder = embedder[0].auto_model
    assert isinstance(encoder, PreTrainedModel)
    config = cast(NomicBertConfig, encoder.config)
    return ModelFacts(
        parameters=encoder.num_parameters(),
        layers=config.num_hidden_layers,
        dimensions=config.hidden_size,
        vocabulary=config.vocab_size,
        trained_length=config.max_trained_positions,
        usable_length=int(embedder.max_seq_length or config.n_positions),
        scaling_factor=config.rotary_scaling_factor or None,
        scaling_type=config.rotary_scaling_type,
        layer_norm=any(isinstance(module, LayerNorm) for module in embedder),
    )


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
        onnx_files: paths of exported files in the repository, the float32 one first.
    """

    repo_id: str
    model: ModelFacts
    weights: str
    readers: Sequence[Agreement] = ()
    training: Sequence[Mapping[str, Any]] = ()
    report: Mapping[str, Any] | None = None
    license: str | None = None
    languages: Sequence[str] = ()
    onnx_files: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Of the model, without its owner."""
        return self.repo_id.split("/")[-1]

    @property
    def matryoshka_dims(self) -> list[int]:
        """Dimensions that the last stage was trained at, falling; empty where it was not trained to be cut."""
        last = self.training[-1] if self.training else {}
        return sorted((last.get("hyperparameters") or {}).get("matryoshka_dims") or [], reverse=True)
