"""Whether a tokenizer is bert-base-uncased's, the WordPiece vocabulary that llama.cpp's converter knows by name."""

import hashlib

from transformers import PreTrainedTokenizerBase

_WORDS = 30_522
# SHA-256 of its words in the order of their ids, one per line
_DIGEST = "0f052197aac305fe42f378b5c61554b7bacb34b8be4af83fec2cfdcdffbc9973"
_PROBE = "Naïve ÉTÉ, 東京: don't-stop 12.5%"
_IDS = [101, 15743, 3802, 2063, 1010, 1879, 1755, 1024, 2123, 1005, 1056, 1011, 2644, 2260, 1012, 1019, 1003, 102]


def is_bert_base_uncased(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the words, their ids and the normalization are the same. Words added after them do not count."""
    by_id = {number: word for word, number in tokenizer.get_vocab().items()}
    words = "\n".join(by_id.get(number, "") for number in range(_WORDS))
    if hashlib.sha256(words.encode()).hexdigest() != _DIGEST:
        return False
    return tokenizer(_PROBE)["input_ids"] == _IDS
