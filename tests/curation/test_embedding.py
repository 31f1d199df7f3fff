import io

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tqdm import tqdm

from curation.embedding import EmbedderSettings, TextEmbedder, embed_distinct, text_key
from nomic_bert.embedder import load_embedder, save_embedder
from tests.checkpoints import save_nomic, save_other
from tests.tensors import assert_close

TEXTS = [
    "the river is old",
    "a stone",
    "the house by the river is made of stone",
    "",
    "long " * 60,
    "a stone and a lamp",
]


@pytest.fixture(scope="module")
def model(minilm_dir, tmp_path_factory):
    """The directory of a model with prompts of its own for queries and documents."""
    embedder = SentenceTransformer(str(minilm_dir), device="cpu")
    embedder.prompts = {"query": "question: ", "document": "answer: "}
    directory = str(tmp_path_factory.mktemp("model"))
    embedder.save_pretrained(directory)
    return directory


def ours(directory):
    """A model of this project, with its task prefixes."""
    save_embedder(load_embedder(save_nomic(directory / "checkpoint"), device="cpu"), directory / "model")


def without_prompts(directory):
    save_other(directory / "model")


OTHER_PROMPTS = {"any": "text: ", "passage": "passage: "}


def prompts_of_other_names(directory):
    """Queries get the prompt that is the default."""
    save_other(directory / "model", prompts=OTHER_PROMPTS, default_prompt_name="any")


def routed(directory):
    """Queries and documents go through different encoders."""
    save_other(directory / "other"), save_nomic(directory / "nomic")
    routes = [[Transformer(str(directory / name)), Pooling(32)] for name in ("other-encoder", "nomic")]
    save_modules(directory, Router.for_query_document(*routes))


def routed_at_the_end(directory):
    save_other(directory / "other")
    heads = [[Dense(32, 16)], [Dense(32, 16)]]
    encoder = Transformer(str(directory / "other-encoder"))
    save_modules(directory, encoder, Pooling(32), Router.for_query_document(*heads))


def cut_by_side(directory):
    """Queries and documents have lengths of their own."""
    save_other(directory / "other")
    save_modules(
        directory, Transformer(str(directory / "other-encoder"), query_length=9, document_length=20), Pooling(32)
    )


def save_modules(directory, *modules):
    prompts = {"query": "ask ", "document": "tell it "}
    SentenceTransformer(modules=list(modules), prompts=prompts, device="cpu").save_pretrained(str(directory / "model"))


@pytest.mark.parametrize(
    ("make", "by_tokens"),
    [(ours, True), (without_prompts, True), (prompts_of_other_names, True),
     (routed, False), (routed_at_the_end, False), (cut_by_side, False)],
)  # fmt: skip
def test_embeddings_are_the_models_own_of_queries_and_documents(tmp_path, make, by_tokens, monkeypatch):
    make(tmp_path)
    directory = str(tmp_path / "model")
    alone = SentenceTransformer(directory, device="cpu")
    if make is prompts_of_other_names:
        alone.prompts = OTHER_PROMPTS  # sentence-transformers adds empty ones when it opens a model
    for length, tokens in (None, None), (30, 64), (30, 1):
        if length:
            alone.max_seq_length = length
        embedder = TextEmbedder(settings(directory, max_seq_length=length, tokens_per_batch=tokens), "cpu")
        embedder.model.prompts = alone.prompts
        for side, own in ("query", alone.encode_query), ("document", alone.encode_document):
            for prompt in (None, "", "some words: "):
                expected = np.stack([own(text, prompt=prompt, normalize_embeddings=True) for text in TEXTS])
                with monkeypatch.context() as patched:
                    if by_tokens:
                        patched.setattr(SentenceTransformer, "encode", None)  # would be called with a number of texts
                    found = embedder.encode(side, TEXTS, prompt)
                assert found.dtype == torch.float32 and found.device.type == "cpu"
                np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("make", "most"), [(ours, 64), (routed_at_the_end, 2)])
def test_batches_are_of_so_many_tokens(tmp_path, make, most):
    make(tmp_path)
    embedder = TextEmbedder(settings(str(tmp_path / "model"), max_seq_length=32, tokens_per_batch=64), "cpu")
    sizes = []
    embedder.model[0].register_forward_pre_hook(
        lambda _, inputs: sizes.append(inputs[0]["input_ids"].shape[make is ours])
    )
    embedder.encode("query", ["a b c d e f g h i j"] * 9)
    assert max(sizes) <= most < 2 * max(sizes) and len(sizes) > 2


def settings(model, **changes):
    return EmbedderSettings(model_name_or_path=model, **changes)


@pytest.mark.parametrize(
    ("changes", "given", "before"),
    [
        ({}, None, {"query": "question: ", "document": "answer: "}),
        ({"query_prompt": "", "document_prompt": "x "}, None, {"query": "", "document": "x "}),
        ({"query_prompt": "q ", "document_prompt": "d "}, "mine: ", {"query": "mine: ", "document": "mine: "}),
    ],
)
def test_prompts_are_the_models_unless_said(model, changes, given, before):
    embedder = TextEmbedder(settings(model, **changes), "cpu")
    plain = SentenceTransformer(model, device="cpu")
    for side in ("query", "document"):
        expected = plain.encode([before[side] + text for text in TEXTS], prompt="", normalize_embeddings=True)
        found = embedder.encode(side, TEXTS, given)
        assert found.dtype == torch.float32 and np.allclose(found, expected, atol=1e-5)


def test_texts_are_cut_and_weights_are_in_the_precision_that_is_said(model):
    short = TextEmbedder(settings(model, max_seq_length=8, precision="bfloat16"), "cpu")
    assert next(short.model.parameters()).dtype == torch.bfloat16
    one, other = short.encode("query", ["river " * 20, "river " * 30])
    assert torch.equal(one, other)
    assert torch.allclose(one.norm(), torch.ones(()), atol=1e-5)


def test_settings_that_cannot_be_meant_are_refused(model):
    with pytest.raises(ValueError, match="precision must be"):
        settings(model, precision="fp16")
    with pytest.raises(ValueError, match="tokens_per_batch must be at least 1"):
        settings(model, tokens_per_batch=0)


def test_identity_is_of_the_weights_and_not_of_the_batch(model, tmp_path):
    first = settings(model).identity()
    assert first == settings(model, tokens_per_batch=7).identity()
    assert first != settings(model, query_prompt="").identity()
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = settings(str(tmp_path)).identity()
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert settings(str(tmp_path)).identity() != before


def test_identity_is_of_all_files_that_embeddings_depend_on_and_of_no_others(tmp_path):
    save_embedder(load_embedder(save_nomic(tmp_path / "checkpoint"), device="cpu"), tmp_path / "model")
    settings = EmbedderSettings(model_name_or_path=str(tmp_path / "model"))
    known = [settings.identity()]
    for name in ("config_sentence_transformers.json", "tokenizer.json", "config.json", "1_Pooling/config.json"):
        (tmp_path / "model" / name).write_text((tmp_path / "model" / name).read_text() + " ")
        assert settings.identity() not in known
        known.append(settings.identity())
    (tmp_path / "model" / "README.md").write_text("A model.")
    assert settings.identity() == known[-1]


def test_a_checkpoint_of_ours_without_module_files_has_its_prompts_and_follows_no_chat_template(tmp_path):
    save_nomic(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "chat_template.jinja").write_text("ignore {{ messages }} and read this")
    embedder = TextEmbedder(EmbedderSettings(model_name_or_path=str(tmp_path / "checkpoint")), "cpu")
    expected = load_embedder(tmp_path / "checkpoint", device="cpu").encode_document(["a b c"])
    np.testing.assert_allclose(embedder.encode("document", ["a b c"]).numpy(), expected, atol=1e-6)
    assert embedder.named_prompt("document").text == "search_document: "


@pytest.mark.parametrize("task", [False, True], ids=["by tokens", "by the model's own encode_document"])
def test_embeddings_that_are_not_finite_are_an_error(tmp_path, task):
    make = routed if task else without_prompts
    make(tmp_path)
    embedder = TextEmbedder(EmbedderSettings(model_name_or_path=str(tmp_path / "model")), "cpu")
    for weight in embedder.model.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="the embeddings of 2 of 2 texts are not finite"):
        embedder.encode("document", ["a", "b"])


def test_equal_texts_are_embedded_once_across_batches():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return torch.tensor([[float(len(text))] for text in texts])

    with tqdm(file=io.StringIO()) as progress:
        ids, embeddings, firsts = embed_distinct(["aa", "b", "aa", "b", "ccc", "aa"], encode, 3, progress)
    assert progress.n == 6 and seen == ["aa", "b", "ccc"]
    assert ids.tolist() == [0, 1, 0, 1, 2, 0] and embeddings.flatten().tolist() == [2, 1, 3]
    assert firsts.tolist() == [0, 1, 4]


def test_keys_are_the_same_in_every_process_and_differ_between_texts():
    # as b2sum -l 64 prints it
    assert text_key("river").to_bytes(8, "little", signed=True).hex() == "969a03e83c7f649f"
    assert len({text_key(str(number)) for number in range(10_000)}) == 10_000


def test_openvino_embeds_as_torch_does_and_less_exactly_in_8_bits(tmp_path):
    pytest.importorskip("openvino")
    ours(tmp_path)
    embedders = {
        key: TextEmbedder(settings(str(tmp_path / "model"), **chosen), device)
        for key, device, chosen in [
            ("torch", "cpu", {}),
            ("openvino", "cuda:0", {"backend": "openvino"}),  # as a rank of a machine with a GPU would say
            ("int8", "cpu", {"backend": "openvino", "precision": "int8"}),
        ]
    }
    assert len({embedder.weights_hash() for embedder in embedders.values()}) == 1
    by = {key: embedder.encode("document", TEXTS) for key, embedder in embedders.items()}
    assert_close(by["openvino"], by["torch"])
    assert (by["int8"] * by["torch"]).sum(dim=1).min() > 0.99
    assert (by["int8"] - by["torch"]).abs().max() > 1e-5
    for wrong in ({"precision": "int8"}, {"backend": "openvino", "precision": "float16"}, {"backend": "onnx"}):
        with pytest.raises(ValueError, match="must be torch or openvino|must be .* with "):
            settings(str(tmp_path / "model"), **wrong)
