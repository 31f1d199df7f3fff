import logging
import zlib

import datasets
import numpy as np
import pytest
import torch

from curation.duplicates import normalize_text
from curation.negatives import mine_hard_negatives


class TableEmbedder:
    """Encodes a text by looking its prompt and text up in a table of random directions; stands for a model."""

    def __init__(self):
        self.table = {}

    def vector(self, text):
        generator = np.random.default_rng(zlib.crc32(text.encode()))
        return self.table.setdefault(text, generator.normal(size=8))

    def encode(self, texts, *, prompt, batch_size, convert_to_tensor, normalize_embeddings, show_progress_bar):
        assert convert_to_tensor and normalize_embeddings
        vectors = torch.tensor(np.stack([self.vector(prompt + text) for text in texts]), dtype=torch.float32)
        return torch.nn.functional.normalize(vectors, dim=1)


def pairs():
    rows = [{"query": f"question {number % 20}", "document": f"Answer {number % 26}."} for number in range(60)]
    rows += [{"query": "Question 3 ?", "document": "ANSWER 7"}, {"query": "many", "document": "Answer 0."}]
    rows += [{"query": "many", "document": f"answer {number}"} for number in range(1, 10)]
    return datasets.Dataset.from_list(rows)


def brute_force(rows, embedder, count, bound):
    """One row after the other, straight from the definition."""
    documents = {}
    for row in rows:
        documents.setdefault(normalize_text(row["document"]), row["document"])

    def cosine(query, document):
        first, second = embedder.vector("Q: " + query), embedder.vector("D: " + document)
        return first @ second / np.linalg.norm(first) / np.linalg.norm(second)

    expected = []
    for row in rows:
        own = {
            normalize_text(other["document"])
            for other in rows
            if normalize_text(other["query"]) == normalize_text(row["query"])
        }
        scored = [(-cosine(row["query"], text), text) for key, text in documents.items() if key not in own]
        limit = np.inf
        if bound is not None:
            limit = bound * cosine(row["query"], documents[normalize_text(row["document"])])
        expected.append([text for score, text in sorted(scored)[:count] if -score <= limit])
    return expected


@pytest.mark.parametrize("bound", [None, 0.9])
@pytest.mark.parametrize("count", [1, 5, 18, 30])
def test_negatives_equal_the_definition(count, bound):
    embedder = TableEmbedder()
    mined = mine_hard_negatives(
        pairs(),
        embedder,
        query_prompt="Q: ",
        document_prompt="D: ",
        num_negatives=count,
        max_relative_score=bound,
    )
    assert mined.column_names == ["query", "document", "negatives"]
    assert mined.remove_columns("negatives").to_list() == pairs().to_list()
    assert mined["negatives"] == brute_force(pairs().to_list(), embedder, count, bound)


def test_rows_without_any_negative_are_kept_and_counted(caplog):
    rows = datasets.Dataset.from_list([{"query": "a", "document": "x"}, {"query": "a", "document": "X."}])
    with caplog.at_level(logging.INFO):
        mined = mine_hard_negatives(rows, TableEmbedder(), query_prompt="", document_prompt="", num_negatives=3)
    assert mined["negatives"] == [[], []]
    assert "2 pairs have fewer than 3, 2 of them none" in caplog.text


def test_pairs_that_cannot_be_mined_are_refused():
    def mine(rows, **settings):
        return mine_hard_negatives(rows, TableEmbedder(), query_prompt="", document_prompt="", **settings)

    with pytest.raises(ValueError, match="no column 'document'; the columns are query"):
        mine(datasets.Dataset.from_dict({"query": ["a"]}))
    with pytest.raises(ValueError, match="negatives already"):
        mine(datasets.Dataset.from_dict({"query": ["a"], "document": ["b"], "negatives": [["c"]]}))
    with pytest.raises(ValueError, match="no pairs"):
        mine(datasets.Dataset.from_dict({"query": [], "document": []}))
    with pytest.raises(ValueError, match="num_negatives"):
        mine(pairs(), num_negatives=0)
