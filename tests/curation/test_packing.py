import logging

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from curation import packing
from curation.packing import pack_documents

CLS, SEP = 1, 2


@pytest.fixture
def tokenizer():
    """One token a word: "w7" -> 10 + 7."""
    vocabulary = {"[UNK]": 0, "[CLS]": CLS, "[SEP]": SEP} | {f"w{number}": 10 + number for number in range(100)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=8)


def pack_by_hand(documents, block_size):
    """The same in plain lists: (token, document) pairs end to end, cut, then counted."""
    stream = [(token, place) for place, tokens in enumerate(documents) for token in tokens]
    blocks = []
    for start in range(0, len(stream) - block_size + 1, block_size):
        block = stream[start : start + block_size]
        lengths = {}
        for _, place in block:
            lengths[place] = lengths.get(place, 0) + 1
        blocks.append({"input_ids": [token for token, _ in block], "document_lengths": list(lengths.values())})
    return blocks


@pytest.mark.parametrize("block_size", [1, 4, 7, 16, 64])
@pytest.mark.parametrize("documents_at_once", [1, 3, 1000])
def test_blocks_equal_a_plain_list_construction(tokenizer, block_size, documents_at_once, monkeypatch):
    monkeypatch.setattr(packing, "_DOCUMENTS_AT_ONCE", documents_at_once)
    sizes = [3, 1, 30, 2, 2, 6, 14, 1, 5, 40, 3]
    words = [[(7 * place + offset) % 100 for offset in range(size)] for place, size in enumerate(sizes)]
    texts = [" ".join(f"w{word}" for word in document) for document in words]
    documents = [[CLS, *(10 + word for word in document), SEP] for document in words]
    blocks = pack_documents(iter(texts), tokenizer, block_size)
    assert blocks.to_list() == pack_by_hand(documents, block_size)


def test_the_dropped_remainder_is_reported(tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        blocks = pack_documents(["w1 w2 w3", "w4"], tokenizer, 6)  # 5 + 3 tokens
    assert len(blocks) == 1
    assert "2 documents of 8 tokens into 1 blocks of 6; 2 tokens at the end were dropped" in caplog.text


def test_a_corpus_that_cannot_be_packed_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no documents"):
        pack_documents([], tokenizer, 4)
    with pytest.raises(ValueError, match="2 documents of 6 tokens in all do not fill one block of 7"):
        pack_documents(["w1", "w2"], tokenizer, 7)
    with pytest.raises(ValueError, match="document 1 .* is blank"):
        pack_documents(["w1", " \n"], tokenizer, 2)
    with pytest.raises(ValueError, match="block_size"):
        pack_documents(["w1"], tokenizer, 0)
