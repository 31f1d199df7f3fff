"""The card prints a command for another program only where that program reads the model right."""

import re

import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from publishing.bert_vocabulary import is_bert_base_uncased
from publishing.card import model_card
from tests.checkpoints import save_tokenizer
from tests.publishing.card_facts import everything, facts_of, section


@pytest.mark.parametrize(
    ("changes", "commands"),
    [
        ({}, {"vllm", "llama.cpp", "text-embeddings-inference"}),
        ({"bert_vocabulary": False}, {"vllm", "text-embeddings-inference"}),  # the converter knows vocabularies by name
        ({"trained_length": 512}, {"vllm"}),
        ({"positions": 4_096}, {"vllm", "text-embeddings-inference"}),
        ({"scaling_type": "linear"}, {"vllm"}),  # the others know no Eq. 3
        ({"layer_norm": True}, set()),  # none of them applies it
    ],
)
def test_a_command_is_printed_only_for_a_model_that_the_program_opens(changes, commands):
    text = section(model_card(facts_of(**changes)), "Usage")
    starts = {
        "vllm": "vllm serve",
        "llama.cpp": "convert_hf_to_gguf.py",
        "text-embeddings-inference": "-router --model",
    }
    assert {program for program, start in starts.items() if start in text} == commands


def test_vllm_is_kept_to_the_length_that_it_reads_rightly_and_runs_no_remote_code():
    def command(**changes):
        return re.search(r"vllm serve .*", model_card(facts_of(**changes)))[0]

    assert command(trained_length=512).endswith("--runner pooling --max-model-len 512")
    for alike in ({"scaling_type": "linear"}, {"scaling_factor": None}):  # vLLM reads every length so
        text = section(model_card(facts_of(**alike)), "Usage")
        assert "--max-model-len 8192" in text and "max_length=8192" in text and "does not scale" not in text


def test_llama_cpp_is_given_the_base_of_eq_5_for_one_long_text():
    text = section(model_card(everything()), "Usage")
    assert "1000 * (2 * L / 2048 - 1) ^ (64 / 62): 3108.2 for 4,096 tokens, 7453.5 for 8,192" in text
    assert pytest.approx(7453.5, abs=0.05) == 1000 * (2 * 8192 / 2048 - 1) ** (64 / 62)
    assert "rope-freq-base" not in model_card(facts_of(scaling_factor=None))


@pytest.mark.parametrize(("lowercase", "known"), [(True, True), (False, False)])
def test_bert_base_uncaseds_tokenizer_is_recognized(lowercase, known, minilm_dir):
    tokenizer = AutoTokenizer.from_pretrained(minilm_dir)
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    assert is_bert_base_uncased(tokenizer) == known


def test_other_tokenizers_are_not_taken_for_bert_base_uncaseds(tmp_path):
    save_tokenizer(tmp_path)
    assert not is_bert_base_uncased(AutoTokenizer.from_pretrained(tmp_path))
