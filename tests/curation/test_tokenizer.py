import subprocess
import sys

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


TRAIN = """
import random, sys
from pathlib import Path
from curation.tokenizer import train_tokenizer
letters = random.Random(0)
alphabet = "abcdefghijklmnopqrstuvwxyz\u00e9\u4e2d."
words = ["".join(letters.choices(alphabet, k=letters.randint(1, 7))) for _ in range(400)]
train_tokenizer([" ".join(letters.choices(words, k=9)) for _ in range(200)], 300, Path(sys.argv[1]))
"""


def test_the_same_texts_give_the_same_tokenizer_in_every_process(tmp_path):
    runs = [subprocess.Popen([sys.executable, "-c", TRAIN, str(tmp_path / str(number))]) for number in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    files = [(tmp_path / str(number) / "tokenizer.json").read_bytes() for number in range(3)]
    assert files[0] == files[1] == files[2]


def test_only_the_five_marks_are_special_and_continuations_are_joined(tmp_path):
    train_tokenizer(["banana bandana cabana"] * 5, 40, tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert sorted(tokenizer.all_special_tokens) == ["[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UNK]"]
    assert tokenizer.decode(tokenizer("nabana")["input_ids"], skip_special_tokens=True) == "nabana"
