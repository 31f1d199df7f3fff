from transformers import AutoTokenizer

from curation.tokenizer import train_tokenizer


def test_a_trained_tokenizer_writes_texts_as_bert_does(tmp_path):
    train_tokenizer(["Hello world, hello there.", "World of words"] * 5, 60, tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = tokenizer("HELLO world")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert tokenizer.decode(ids[1:-1]) == "hello world"
    pair = tokenizer("hello", "world", return_token_type_ids=True)
    separators = [i for i, token in enumerate(pair["input_ids"]) if token == tokenizer.sep_token_id]
    assert len(separators) == 2 and separators[1] == len(pair["input_ids"]) - 1
    assert pair["token_type_ids"] == [int(i > separators[0]) for i in range(len(pair["input_ids"]))]
    assert tokenizer("a [MASK]")["input_ids"][-2] == tokenizer.mask_token_id
    assert len(tokenizer) <= 60 and len(tokenizer("hello " * 50, truncation=True, max_length=9)["input_ids"]) == 9
