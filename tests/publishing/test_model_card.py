"""The card says every fact that it is given and nothing else, as valid metadata."""

import copy
import os
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from nomic_bert.configuration_nomic_bert import MINIMUM_TRANSFORMERS
from nomic_bert.prompts import PREFIXES
from nomic_bert.training_record import UNRECORDED
from publishing.card import model_card
from tests.publishing.card_facts import NOTHING, STAGE_1, STAGE_2, WEIGHTS, a_report, everything, facts_of, section


@pytest.fixture(scope="module")
def card():
    return model_card(everything())


def data_of(text):
    return ModelCard(text).data


def test_what_each_stage_took_stands_beside_the_papers(card):
    first, second = (line for line in card.splitlines() if line.startswith("This stage took"))
    assert first == (
        "This stage took 12.5 hours, which is 4.17 days of device time, and 50 kWh for its GPUs (NVML), 1 kWh for its "
        "CPUs and their memory (RAPL, other programs included). The paper's took about 4 days on 8 H100s (Appendix A)."
    )
    assert second == "This stage took 80 seconds. The paper's took an hour on 8 H100s (Appendix A)."


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


def test_one_layer_is_a_layer(card):
    facts = everything()
    assert "parameters in 12 layers and" in card
    assert "parameters in 1 layer and" in model_card(replace(facts, model=replace(facts.model, layers=1)))


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


def test_nothing_is_escaped_inside_code(card):
    fences = re.findall(r"```.*?```", card, re.DOTALL)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", card, flags=re.DOTALL))
    assert [code for code in fences + spans if re.search(r"\\[^|]", code)] == []


def test_a_directorys_own_prompts_are_shown_in_place_of_the_papers():
    text = model_card(facts_of(prompts={"query": "Represent this | query: "}))
    assert r"`Represent this \| query: `" in section(text, "Prefixes first")
    assert '"Represent this | query: solve' in text and "search_document" not in section(text, "Usage")


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
