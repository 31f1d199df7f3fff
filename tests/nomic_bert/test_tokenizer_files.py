import json

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from nomic_bert.tokenizer_files import save_tokenizer
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
