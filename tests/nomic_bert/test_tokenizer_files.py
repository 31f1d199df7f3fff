import json

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from nomic_bert import NomicBertModel
from nomic_bert.embedder import load_embedder
from nomic_bert.tokenizer_files import open_tokenizer, save_tokenizer
from tests.checkpoints import save_nomic
from tests.checkpoints import save_tokenizer as save_letters

LONG = "abc" * 60


def test_what_one_run_left_in_a_tokenizer_is_not_published(tmp_path):
    save_letters(tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    expected = tokenizer(LONG)["input_ids"]
    tokenizer(["a", LONG], truncation=True, max_length=9, padding="max_length")  # as an encoding loop calls it
    save_tokenizer(tokenizer, tmp_path / "saved")
    # the tokenizers library, as text-embeddings-inference uses it
    assert Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json")).encode(LONG).ids == expected
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(LONG)["input_ids"] == expected
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast", "transformers 4 knows no other"
    assert settings["model_max_length"] == 256
    assert not {"max_length", "truncation_strategy", "is_local"} & set(settings)


def test_a_class_that_transformers_4_knows_stays(tmp_path):
    save_letters(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "BertTokenizer"}))
    save_tokenizer(AutoTokenizer.from_pretrained(tmp_path), tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "BertTokenizer"


DOORS = {"open_tokenizer": open_tokenizer, "load_embedder": load_embedder}


def without_tokenizer(directory):
    """As nomic-bert-2048 is on the hub: transformers makes a tokenizer of five special tokens of it."""
    save_nomic(directory)
    for file in directory.glob("*token*"):
        file.unlink()
    assert len(AutoTokenizer.from_pretrained(directory)) == 5
    return directory


@pytest.mark.parametrize("door", DOORS)
def test_a_directory_without_a_tokenizer_is_refused_with_the_remedy(tmp_path, door):
    directory = without_tokenizer(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="bare has no tokenizer files.*bert-base-uncased"):
        DOORS[door](directory)
    AutoTokenizer.from_pretrained(directory).save_pretrained(directory)  # as a run of transformers leaves it
    with pytest.raises(ValueError, match="bare has a tokenizer without words"):
        DOORS[door](directory)


@pytest.mark.parametrize("door", DOORS)
def test_a_vocabulary_that_is_not_the_embeddings_is_refused(tmp_path, door):
    save_nomic(tmp_path)
    model = NomicBertModel.from_pretrained(tmp_path)
    for rows, refused in ((100, False), (97, True), (262, True), (261, False)):
        model.resize_token_embeddings(rows)
        model.save_pretrained(tmp_path)
        if refused:
            with pytest.raises(ValueError, match=f"99 tokens for an embedding of {rows} rows"):
                DOORS[door](tmp_path)
        else:
            DOORS[door](tmp_path)


def test_a_tokenizer_alone_opens_and_one_of_the_authors_checkpoints_with_padded_rows(tmp_path):
    save_letters(tmp_path / "alone")
    assert open_tokenizer(tmp_path / "alone")("ab")["input_ids"] == [2, 69, 70, 3]
    (tmp_path / "alone" / "config.json").write_text(json.dumps({"vocab_size": 98, "pad_vocab_size_multiple": 64}))
    (tmp_path / "alone" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    assert len(open_tokenizer(tmp_path / "alone")) == 99


def test_a_damaged_configuration_is_named_with_a_remedy(tmp_path):
    save_nomic(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        open_tokenizer(tmp_path)
