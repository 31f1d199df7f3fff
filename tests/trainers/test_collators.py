import datasets
import numpy as np
import pytest
import torch

from tests.trainers.toys import PROMPTS, SPECIAL, WORDS, blocks, mlm, pairs, tokenizer
from trainers.collators import MaskedLMCollator, PairCollator
from trainers.sampling import SourceBatch


def batch(dataset, rows=None, epoch=0):
    return SourceBatch("source", dataset, np.arange(len(dataset)) if rows is None else np.array(rows), epoch)


def pair_collator(**changes):
    settings = {"query_max_length": 32, "document_max_length": 64} | changes
    return PairCollator(tokenizer(), {"source": PROMPTS}, **settings)


def texts(output):
    """The decoded texts of a collated batch, without special tokens."""
    pieces = output["input_ids"].split(output["lengths"].tolist())
    return [tokenizer().decode(piece, skip_special_tokens=True) for piece in pieces]


def test_masking_shares_and_targets():
    data = blocks(200, length=200)
    output = MaskedLMCollator(tokenizer(), 0.30)(batch(data))
    original = torch.tensor(data["input_ids"])
    labels, inputs = output["labels"], output["input_ids"]
    chosen = labels != -100
    special = original < len(SPECIAL)
    assert not chosen[special].any()
    assert torch.equal(inputs[~chosen], original[~chosen])
    assert torch.equal(labels[chosen], original[chosen])
    # 38,800 ordinary tokens: the bounds are about 4 standard deviations
    assert chosen[~special].float().mean().item() == pytest.approx(0.30, abs=0.01)
    masked = inputs[chosen] == tokenizer().mask_token_id
    kept = inputs[chosen] == original[chosen]
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.015)
    assert kept.float().mean().item() == pytest.approx(0.1 + 0.1 / len(WORDS), abs=0.012)
    replaced = inputs[chosen][~masked & ~kept]
    assert set(replaced.tolist()) == set(range(len(SPECIAL), len(SPECIAL) + len(WORDS)))


def test_masks_depend_on_row_epoch_and_seed_alone():
    data = blocks(20)
    collator = MaskedLMCollator(tokenizer(), seed=4)
    whole = collator(batch(data))["input_ids"]
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(collator(batch(data, [7, 3]))["input_ids"], whole[[7, 3]])
    assert not torch.equal(collator(batch(data, epoch=1))["input_ids"], whole)
    assert not torch.equal(MaskedLMCollator(tokenizer(), seed=5)(batch(data))["input_ids"], whole)
    fixed = MaskedLMCollator(tokenizer(), fixed_masks=True)
    assert torch.equal(fixed(batch(data, epoch=0))["input_ids"], fixed(batch(data, epoch=1))["input_ids"])


def test_attention_inside_documents_equals_each_document_alone():
    output = MaskedLMCollator(tokenizer(), attend_across_documents=False)(batch(blocks(3)))
    assert output["input_ids"].shape == (1, 72)
    lengths = output["cu_seq_lens_q"].diff().tolist()
    assert lengths == [12, 6, 6] * 3 and output["max_length_q"] == 12
    model = mlm().eval()
    packed = model(**{**output, "labels": None}).logits[0]
    alone = [model(input_ids=ids[None]).logits[0] for ids in output["input_ids"][0].split(lengths)]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_blocks_of_unequal_length_are_packed_not_padded():
    data = datasets.concatenate_datasets([blocks(2, 24), blocks(1, 10)])
    output = MaskedLMCollator(tokenizer())(batch(data))
    assert output["input_ids"].shape == (1, 58)
    assert output["cu_seq_lens_q"].diff().tolist() == [24, 24, 10]
    assert MaskedLMCollator(tokenizer())(batch(data, [0, 1]))["input_ids"].shape == (2, 24)


def test_a_block_that_does_not_add_up_is_named():
    bad = datasets.Dataset.from_dict({"input_ids": [[5, 6], [5, 6]], "document_lengths": [[2], [1]]})
    with pytest.raises(ValueError, match="'source', row 1: document_lengths add up to 1 tokens, the block has 2"):
        MaskedLMCollator(tokenizer(), attend_across_documents=False)(batch(bad))
    with pytest.raises(ValueError, match="'source', row 0: the block is empty"):
        MaskedLMCollator(tokenizer())(batch(datasets.Dataset.from_dict({"input_ids": [[]]})))


def test_without_lengths_documents_start_at_each_cls_token():
    """Block 0 begins inside a document, block 1 with a [CLS] that opens the only document, block 2 at a [CLS]."""
    ids = [[7, 8, 3, 2, 9, 3, 2, 5], [2, 6, 7, 8, 9, 6, 7, 3], [2, 3, 2, 3, 2, 8, 8, 3]]
    collator = MaskedLMCollator(tokenizer(), attend_across_documents=False)
    output = collator(batch(datasets.Dataset.from_dict({"input_ids": ids})))
    assert output["cu_seq_lens_q"].diff().tolist() == [3, 3, 2, 8, 2, 2, 4]
    whole = blocks(5)
    found = collator(batch(whole.select_columns("input_ids")))
    assert all(torch.equal(found[key], value) for key, value in collator(batch(whole)).items() if key != "max_length_q")


def test_a_tokenizer_without_a_mask_token_is_refused():
    without = tokenizer()
    without.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        MaskedLMCollator(without)


def test_a_tokenizer_that_does_not_know_its_special_tokens_is_refused():
    without = tokenizer()
    without.pad_token = None
    with pytest.raises(ValueError, match="no padding token.* name its special tokens"):
        MaskedLMCollator(without)
    unmarked = tokenizer()
    unmarked.cls_token = unmarked.sep_token = None
    with pytest.raises(ValueError, match=r"puts \[CLS\], \[SEP\] around every text and does not count them"):
        MaskedLMCollator(unmarked)


def test_texts_carry_prefixes_in_the_stated_order():
    data = pairs(3, negatives=[2])
    output = pair_collator(num_hard_negatives=2)(batch(data, [2, 0]))
    decoded = texts(output)
    assert output["num_queries"] == 2 and output["source"] == "source"
    assert decoded[:2] == ["word0 " + data[row]["query"] for row in (2, 0)]
    for place, row in ((2, 2), (5, 0)):
        assert decoded[place] == "word1 word1 " + data[row]["document"]
        own = {"word1 word1 " + text for text in data[row]["negatives"]}
        assert set(decoded[place + 1 : place + 3]) == own
    assert output["truncated"].tolist() == [0, 0]


def test_limits_cut_each_side_and_are_counted():
    data = datasets.Dataset.from_dict(
        {"query": ["word3 word4 word5", "word3"], "document": ["word6 " * 30, "word7 " * 7]}
    )
    output = pair_collator(query_max_length=5, document_max_length=11)(batch(data))
    assert output["lengths"].tolist() == [5, 4, 11, 11]  # the last is exactly at the limit, not cut
    assert output["truncated"].tolist() == [0.5, 0.5]
    assert all(piece[0] == 2 and piece[-1] == 3 for piece in output["input_ids"].split([5, 4, 11, 11]))


def negatives_of(dataset, row, epoch=0, wanted=3, seed=0):
    return texts(pair_collator(num_hard_negatives=wanted, seed=seed)(batch(dataset, [row], epoch)))[2:]


def test_negatives_are_drawn_without_replacement_anew_each_epoch():
    data = pairs(4, negatives=[8])
    draws = [negatives_of(data, 1, epoch) for epoch in range(40)]
    assert draws == [negatives_of(data, 1, epoch) for epoch in range(40)]
    assert all(len(set(draw)) == 3 for draw in draws)
    drawn = {text for draw in draws for text in draw}
    assert drawn == {"word1 word1 " + text for text in data[1]["negatives"]}
    assert draws[0] != negatives_of(data, 1, seed=1)


def test_short_lists_are_filled_with_other_rows_documents():
    data = pairs(6, negatives=[1])
    for epoch in range(20):
        first, *filled = negatives_of(data, 2, epoch)
        assert first == "word1 word1 " + data[2]["negatives"][0]
        others = {"word1 word1 " + text for row, text in enumerate(data["document"]) if row != 2}
        assert set(filled) <= others and len(set(filled)) == 2


def test_the_own_document_is_never_a_negative():
    data = datasets.Dataset.from_dict(
        {
            "query": ["word5"] * 3,
            "document": ["word6", "word6", "word7"],
            "negatives": [["word6", "word8", "word8"]] * 3,
        }
    )
    for epoch in range(10):
        assert sorted(negatives_of(data, 0, epoch, wanted=2)) == ["word1 word1 word7", "word1 word1 word8"]
    with pytest.raises(ValueError, match="'source', row 0: too few distinct documents"):
        negatives_of(data, 0, wanted=3)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("query", " ", "row 1, column 'query': an empty text"),
        ("document", None, "row 1, column 'document': NoneType where a text belongs"),
        ("negatives", [""], "row 1, column 'negatives': an empty text"),
        ("negatives", [], "row 1, column 'negatives': no hard negative"),
        ("negatives", None, "row 1, column 'negatives': no hard negative"),
    ],
)
def test_bad_rows_are_named(column, value, message):
    data = pairs(3, negatives=[2]).to_dict()
    data[column][1] = value
    with pytest.raises(ValueError, match=f"Source 'source', {message}"):
        pair_collator(num_hard_negatives=1)(batch(datasets.Dataset.from_dict(data)))
