"""Models that the contrastive trainer must refuse: those that let packed texts see each other, and wrappers."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel
from transformers.models.nomic_bert import NomicBertConfig as NativeConfig
from transformers.models.nomic_bert import NomicBertModel as NativeModel

from nomic_bert.embedder import embedder_around
from tests.trainers.toys import contrastive_trainer, encoder, tokenizer

SMALL = {
    "vocab_size": 128,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BertModel, BertConfig(**SMALL, initializer_range=0.2)),
        (ModernBertModel, ModernBertConfig(**SMALL, pad_token_id=0, cls_token_id=2, sep_token_id=3)),
        (NativeModel, NativeConfig(**SMALL, initializer_range=0.2)),
    ],
)
def test_models_that_ignore_the_texts_bounds_are_refused_by_name(tmp_path, kind, config):
    torch.manual_seed(0)
    model = kind(config)
    for parameter in model.parameters():  # weights for which attention matters
        torch.nn.init.normal_(parameter, std=0.3)
    with pytest.raises(ValueError, match=f"{kind.__name__} (lets packed texts see each other|does not take packed)"):
        contrastive_trainer(tmp_path, model)


def test_ours_is_taken_with_dropout_and_stays_in_its_mode(tmp_path):
    model = encoder(resid_pdrop=0.5, attn_pdrop=0.5).train()
    assert contrastive_trainer(tmp_path, model).model.training


def test_the_proof_draws_no_random_numbers_of_the_run(tmp_path):
    """The state after construction is that of the seed: with dropout, a resumed run depends on it."""
    contrastive_trainer(tmp_path, encoder(resid_pdrop=0.5))
    found = torch.get_rng_state()
    torch.manual_seed(11)
    assert torch.equal(found, torch.get_rng_state())


def test_a_sentence_transformer_is_refused_with_what_to_pass(tmp_path):
    embedder = embedder_around(encoder(), tokenizer())
    assert isinstance(embedder, SentenceTransformer)
    with pytest.raises(TypeError, match=r"model\[0\]\.model"):
        contrastive_trainer(tmp_path, embedder)


def test_predict_says_what_to_use(tmp_path):
    with pytest.raises(NotImplementedError, match="evaluate"):
        contrastive_trainer(tmp_path).predict(None)
