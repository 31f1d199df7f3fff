"""Facts for model cards: every kind there is, and none."""

import re
from dataclasses import replace

from nomic_bert.prompts import PROMPTS
from nomic_bert.training_record import STAGE_BEFORE, STAGES
from publishing.card import CardFacts, ModelFacts
from publishing.reader_results import ProgramResult, ProgramResults
from publishing.readers import Reader
from publishing.verification import Agreement

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
    "processes": 8, "cost": {"seconds": 45_000.0, "device_seconds": 360_000.0, "joules": {"gpu": 1.8e8, "cpu": 3.6e6}},
    "devices": {"NVIDIA H100": 8}, "versions": {"torch": "2.13.0"}, "date": "2026-01-02",
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
    "cost": {"seconds": 80.0, "device_seconds": 80.0},
}  # fmt: skip


PROGRAMS = ProgramResults(
    date="2026-11-30", hardware="2 cores of a CPU", model="random weights", programs=[
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


def facts_of(**changes):
    return replace(everything(), model=replace(MODEL, **changes))


def section(text, title):
    return re.split(r"(?m)^## ", text.split(f"\n## {title}\n")[1])[0]
