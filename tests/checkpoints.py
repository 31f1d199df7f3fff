"""Small checkpoints on the disk: one of ours, one of sentence-transformers that is not ours."""

import json

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from nomic_bert import NomicBertConfig, NomicBertForMaskedLM

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_tokenizer(directory):
    """A tokenizer of letters: every text is many known tokens, whatever its words."""
    letters = [*SPECIAL, *(chr(code) for code in range(33, 127))]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(letters)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Replace(" ", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    save_as_berts(tokenizer, directory, model_max_length=256)


def save_as_berts(tokenizer, directory, **settings):
    """Save a tokenizer whose first tokens are `SPECIAL` with BERT's marks around a text."""
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", **settings,
    ).save_pretrained(directory)  # fmt: skip


def save_nomic(directory, seed=0, n_positions=256, **settings):
    """A checkpoint of stage 1: trained to 64 tokens."""
    torch.manual_seed(seed)
    config = NomicBertConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_trained_positions=64, n_positions=n_positions, initializer_range=0.2, **settings,
    )  # fmt: skip
    NomicBertForMaskedLM(config).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def save_other(directory, **settings):
    """A sentence-transformers model that is not ours, reading 128 tokens."""
    encoder = directory.parent / f"{directory.name}-encoder"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(encoder)
    save_tokenizer(encoder)
    modules = [Transformer(str(encoder)), Pooling(32), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", **settings).save_pretrained(str(directory))
    return directory


def edit_json(file, **changes):
    """Set keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
