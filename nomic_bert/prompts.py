"""The four task prefixes (paper §4.2.2), and the names under which libraries look them up."""

PREFIXES = ("search_query", "search_document", "classification", "clustering")


def prefix_text(name: str) -> str:
    """The text put before a query or document: `"search_query"` -> `"search_query: "`, `""` -> `""`.

    Raises:
        ValueError: the name is not one of the four.
    """
    if name and name not in PREFIXES:
        raise ValueError(f"Unknown prefix {name!r}; choose one of {', '.join(PREFIXES)}, or '' for none.")
    return f"{name}: " if name else ""


# Prompt name -> text, by the names that mteb looks up: its task types (paper §5.2.1; Reranking as in the authors'
# release), and QuoraRetrieval, whose documents are queries (contrastors@613ddfd). sentence-transformers' encode_query
# and encode_document look up `query` and `document`.
MTEB_PROMPTS: dict[str, str] = {
    "query": prefix_text("search_query"),
    "document": prefix_text("search_document"),
    "Classification": prefix_text("classification"),
    "MultilabelClassification": prefix_text("classification"),
    "PairClassification": prefix_text("classification"),
    "STS": prefix_text("classification"),
    "Summarization": prefix_text("classification"),
    "Reranking": prefix_text("classification"),
    "Clustering": prefix_text("clustering"),
    "QuoraRetrieval-document": prefix_text("search_query"),
}
# What a saved model carries: the paper's own four names serve `encode(prompt_name=...)`.
PROMPTS: dict[str, str] = {**MTEB_PROMPTS, **{name: prefix_text(name) for name in PREFIXES}}
