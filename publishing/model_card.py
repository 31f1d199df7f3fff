"""The model card: README.md of the hub repository, made from facts alone."""

from huggingface_hub import ModelCardData

from textfiles.markdown import code, escaped

from .card_facts import CardFacts
from .card_results import eval_results, evaluated_models, is_on_mteb, results
from .card_training import base_model, datasets_used, training
from .card_usage import lengths, prefixes, readers, shorter_embeddings, usage
from .upload import PROJECT_TAG, require_repo_id

_PAPER = "https://arxiv.org/abs/2402.01613"
_CITATION = """
@article{nussbaum2025nomic,
  title   = {Nomic Embed: Training a Reproducible Long Context Text Embedder},
  author  = {Nussbaum, Zach and Morris, John X. and Duderstadt, Brandon and Mulyar, Andriy},
  journal = {Transactions on Machine Learning Research},
  year    = {2025},
  url     = {https://arxiv.org/abs/2402.01613}
}

@software{nomic_embed_hf,
  title  = {nomic-embed-hf: Train, evaluate and publish Nomic Embed with the Hugging Face stack},
  author = "{The nomic-embed-hf contributors}"
}
"""


def model_card(facts: CardFacts) -> str:
    """The card's text: metadata in YAML, then sections; what there are no facts for is left out or said in a sentence.

    Raises:
        ValueError: the repository's name is none, or the report has nothing for the weights.
    """
    require_repo_id(facts.repo_id)
    sections = [
        introduction(facts),
        prefixes(facts),
        usage(facts),
        shorter_embeddings(facts),
        lengths(facts),
        readers(facts),
        training(facts.training),
        results(facts.report, facts.weights),
        limits(facts),
        licence(facts),
        f"## Citation\n\n{code('bibtex', _CITATION)}",
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}\n"


def metadata(facts: CardFacts) -> ModelCardData:
    """What the hub reads: tags, licence, languages, base model, data sets, results.

    Raises:
        ValueError: the report has nothing for the weights.
    """
    tags = ["sentence-transformers", "feature-extraction", "sentence-similarity", "transformers", "nomic_bert"]
    tags += [PROJECT_TAG, "custom_code"]
    if facts.onnx_files:
        tags.append("onnx")
    found = []
    if facts.report is not None:
        found = eval_results(facts.report, facts.weights)
        if found or is_on_mteb(facts.report, facts.weights):
            tags.append("mteb")
    return ModelCardData(
        language=list(facts.languages) or None,
        license=facts.license,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=tags,
        base_model=base_model(facts.training),
        datasets=datasets_used(facts.training) or None,
        model_name=facts.name if found else None,
        eval_results=found or None,
    )


def introduction(facts: CardFacts) -> str:
    """What the model is, in a paragraph."""
    model = facts.model
    cut = ""
    if dims := [dim for dim in facts.matryoshka_dims if dim < model.dimensions]:
        cut = f" An embedding was trained to be cut to {', '.join(f'{dim:,}' for dim in dims)} dimensions."
    return (
        f"# {escaped(facts.name)}\n\n"
        f"A text embedder: a text of up to {model.usable_length:,} tokens becomes a vector of "
        f"{model.dimensions:,} dimensions at unit length, and the cosine of two vectors says how alike their texts "
        f"are. The encoder is a Nomic BERT (RoPE, SwiGLU, no biases) of {model.parameters:,} parameters in "
        f"{model.layers:,} layers, with a vocabulary of {model.vocabulary:,}, trained on texts to "
        f"{model.trained_length:,} tokens.{cut} It was made with nomic-embed-hf, an "
        f"implementation of [Nomic Embed]({_PAPER})."
    )


def limits(facts: CardFacts) -> str:
    """What is not known or not meant, as far as the facts tell."""
    model = facts.model
    said = ["Without its prefix a text is not embedded as in training."]
    if facts.languages:
        said.append(f"Made for the languages {', '.join(map(escaped, facts.languages))}; others were not tried.")
    else:
        said.append("Which languages it is for is not stated.")
    longest = _longest_evaluated(facts)
    if longest is None:
        said.append("Its quality was not measured, at any length.")
    elif longest < model.usable_length:
        said.append(f"Its quality on texts of more than {longest:,} tokens was not measured.")
    if model.usable_length > model.trained_length:
        said.append(f"Texts of more than {model.trained_length:,} tokens are longer than it was trained to read.")
    if not facts.readers:
        said.append("Whether all readers give the same embedding was not tried.")
    said.append("What its training texts hold of errors and prejudice it may have learned; that was not examined.")
    return "## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in said)


def _longest_evaluated(facts: CardFacts) -> int | None:
    if facts.report is None:
        return None
    runs = [run for model in evaluated_models(facts.report, facts.weights) for run in model["runs"]]
    return max((run["length"] or 0 for run in runs if run["scores"]), default=None) or None


def licence(facts: CardFacts) -> str:
    """As given; nothing is guessed."""
    if facts.license is None:
        return "## Licence\n\nNo licence is stated. Ask the publisher before you use the model."
    return (
        f"## Licence\n\n{escaped(facts.license)}, as stated by the publisher. The model code is "
        "nomic-embed-hf's, under Apache-2.0."
    )
