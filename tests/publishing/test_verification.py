"""One directory, every reader that runs here: the embeddings are the checkpoint's, and a difference is found."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from nomic_bert import NomicBertConfig
from nomic_bert.embedder import load_embedder, save_embedder
from publishing import read_embeddings as read_embeddings_script
from publishing import verification
from publishing.readers import EXPORT_READERS, READERS, Probe, read_embeddings
from publishing.verification import (
    make_probes,
    open_reference,
    probe_lengths,
    require_same_settings,
    verify_directory,
)
from tests.checkpoints import SPECIAL, save_nomic

REMOTE = next(reader for reader in READERS if reader.key == "transformers/remote")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return load_embedder(save_nomic(tmp_path_factory.mktemp("checkpoint"), seed=1), device="cpu")


@pytest.fixture
def directory(embedder, tmp_path):
    save_embedder(embedder, tmp_path / "written")
    return tmp_path / "written"


def test_probes_are_as_long_as_they_say(embedder):
    assert probe_lengths(NomicBertConfig(), 8192) == [5, 500, 2048, 2049, 8192]
    lengths = probe_lengths(embedder[0].auto_model.config, 256)
    assert lengths == [5, 64, 65, 256]
    probes = make_probes(embedder.tokenizer, lengths, embedder.prompts)
    for probe in probes:
        assert len(embedder.tokenizer(probe.full_text)["input_ids"]) == probe.tokens
    assert [probe.tokens for probe in probes[:-1]] == lengths
    assert probes[-1].full_text.startswith("search_query: ") and probes[-1].prompt_name == "query"


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIAL, unk_token="[UNK]", max_piece_length=9, show_progress=False
    )
    return tokenizer, trainer


@pytest.mark.parametrize("make", [byte_level_bpe, unigram])
def test_probes_are_measured_whole_for_tokenizers_whose_words_join(make, repository):
    """Their first word has another token than the same word after a space, and words are several tokens."""
    tokenizer, trainer = make()
    tokenizer.train([str(path) for path in sorted((repository / "publishing").glob("*.py"))], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    lengths = [5, 64, 65, 500, 2_049]
    probes = make_probes(fast, lengths, {"query": "search_query: "})
    assert [len(fast(probe.full_text)["input_ids"]) for probe in probes] == [*lengths, 65]
    assert len({token for probe in probes for token in fast(probe.text)["input_ids"]}) > 100  # not one word, repeated


def with_modules(directory, change):
    """An embedder's directory, with its modules changed by sentence-transformers itself."""
    model = SentenceTransformer(str(directory), device="cpu")
    change(model)
    model.save_pretrained(str(directory), create_model_card=False)
    return directory


def test_what_the_checkpoint_says_decides_and_not_how_we_read_it(embedder, directory):
    """A CLS embedder of the same architecture must not be found equal to its mean."""

    def take_first_token(model):
        model[1] = Pooling(32, pooling_mode="cls")

    reference = open_reference(str(with_modules(directory, take_first_token)), None)
    wrong = embedder.encode("a text", normalize_embeddings=True) - reference.encode("a text", normalize_embeddings=True)
    assert np.abs(wrong).max() > 1e-2


def test_without_module_files_sentence_transformers_is_not_asked(tmp_path):
    assert open_reference(str(save_nomic(tmp_path)), None) is None


def test_the_reference_is_scaled_as_is_published(directory):
    assert open_reference(str(directory), 3.0)[0].auto_model.config.rotary_scaling_factor == 3.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model, "max_seq_length", 100), "max_seq_length is 100 .* published as 256"),
        (lambda model: model.prompts.update(query="Ask: "), "prompt 'query' is 'Ask: ' .* 'search_query: '"),
        (lambda model: setattr(model, "similarity_fn_name", "dot"), "similarity_fn_name is 'dot' .* 'cosine'"),
    ],
)
def test_other_settings_than_the_checkpoints_are_refused_by_name(embedder, directory, change, said):
    reference = open_reference(str(directory), None)
    require_same_settings(embedder, reference)
    change(reference)
    with pytest.raises(ValueError, match=said):
        require_same_settings(embedder, reference)


def test_a_reader_runs_the_code_beside_the_weights(embedder, directory):
    """A change of the code there shows where it must, beyond the trained length, alone and together, and nowhere else.

    That every reader agrees where nothing is changed is shown in test_hub_upload.py.
    """
    file = directory / "rotary_nomic_bert.py"
    assert file.read_text().count("stretch.clamp(min=1.0)") == 1
    file.write_text(file.read_text().replace("stretch.clamp(min=1.0)", "stretch.clamp(min=1.0) * 2"))
    probes = [Probe("ab", 4), Probe("c" * 100, 102), Probe("d" * 40, 56, "search_query: ", "query")]
    expected = embedder.encode([probe.full_text for probe in probes])[[0, 1, 2, 0, 1]]
    remote = [reader for reader in READERS if reader.code == "remote"]
    for found, versions in read_embeddings(remote, directory, probes, [0, 1]):
        np.testing.assert_allclose(found[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-6)
        assert (np.abs(found - expected).max(axis=1)[[1, 4]] > 1e-3).all()
        assert "transformers" in versions


def test_a_reader_that_fails_is_named_with_what_it_said_and_has_no_token(directory, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (directory / "configuration_nomic_bert.py").write_text(
        "from os import environ\nraise RuntimeError(str([environ.get('HF_TOKEN'), environ['HF_HUB_OFFLINE']]))\n"
    )
    with pytest.raises(ValueError, match=r"(?s)transformers, trust_remote_code cannot read.*\[None, '1'\]"):
        read_embeddings([REMOTE], directory, [Probe("ab", 4)], [])


def test_a_reader_that_is_not_itself_is_refused(directory):
    """With the package imported, as here, its class opens the directory, whatever the numbers say."""
    with pytest.raises(SystemExit, match="comes from nomic_bert.*transformers_modules was to be tried"):
        read_embeddings_script.open_reader("transformers/remote", str(directory))


@pytest.mark.parametrize(("error", "agrees"), [(0.0, True), (5e-6, True), (2e-5, False), (np.nan, False)])
def test_differences_are_the_largest_and_nan_is_none(embedder, directory, monkeypatch, error, agrees):
    """Every reader at every length; readers of the trained length alone get no longer text."""
    asked = {}

    def read(readers, directory, probes, together):
        asked[readers[0].code] = [probe.tokens for probe in probes]
        embeddings = embedder.encode([probe.full_text for probe in probes])
        embeddings = embeddings[[*range(len(probes)), *together]]
        embeddings[-1, 3] += error
        return [(embeddings, {"some": "1"})] * len(readers)

    monkeypatch.setattr(verification, "read_embeddings", read)
    agreements = list(verify_directory(directory, embedder))
    assert [a.agrees for a in agreements] == [agrees] * len(READERS)
    assert agreements[0].difference == pytest.approx(np.nan_to_num(error, nan=np.inf), abs=1e-6)
    assert asked == {"remote": [5, 64, 65, 256, 65], "package": [5, 64, 65, 256, 65], "native": [5, 64]}
    (directory / "onnx").mkdir()
    (directory / "onnx" / "model.onnx").touch()
    assert [a.reader for a in verify_directory(directory, embedder)][len(READERS) :] == [
        EXPORT_READERS["onnx/model.onnx"]
    ]
