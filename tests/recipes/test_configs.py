"""The configs hold the paper's numbers under keys that exist, each with its origin beside it."""

import re
from pathlib import Path

import pytest
import yaml

from curation.embedding import EmbedderSettings
from curation.filtering.consistency import KeepRule
from curation.mining.tasks import MiningSource
from curation.raw.rules import RawSource
from curation.sources import Source
from recipes.quickstart_text.corpus import CorpusSettings
from recipes.shared.arguments import parse_arguments
from recipes.shared.contrastive import ContrastiveArguments
from recipes.steps.filter_pairs import FilterArguments
from recipes.steps.make_pairs import MakePairsArguments
from recipes.steps.mine_negatives import MineArguments
from recipes.steps.pack_corpus import PackArguments
from recipes.steps.quickstart import QuickstartSettings
from recipes.steps.stage1 import Stage1Arguments
from textfiles.settings import read_section
from trainers import ContrastiveConfig, MLMConfig

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"
KINDS = {
    "stage1": (Stage1Arguments, MLMConfig),
    "stage2": (ContrastiveArguments, ContrastiveConfig),
    "stage3": (ContrastiveArguments, ContrastiveConfig),
    "pack_corpus": (PackArguments,),
    "mine_negatives": (MineArguments, EmbedderSettings),
    "filter_pairs": (FilterArguments, KeepRule, EmbedderSettings),
    "mine_supervised": (MineArguments, EmbedderSettings),
    "raw_sources": (MakePairsArguments,),
    "raw_supervised": (MakePairsArguments,),
    "quickstart": (CorpusSettings, QuickstartSettings),
}
FILES = sorted(file for file in CONFIGS.rglob("*.yaml") if file.parent.name != "accelerate")  # those are the launcher's
# what the quickstart itself gives its recipes
GIVEN = {
    "stage1": ["--train_data=x", "--tokenizer=x", "--output_dir=x"],
    "stage2": ["--model_name_or_path=x", "--sources=[]", "--output_dir=x"],
    "stage3": ["--model_name_or_path=x", "--sources=[]", "--output_dir=x"],
    "pack_corpus": ["--documents=[]", "--tokenizer=x", "--output_dir=x"],
    "mine_negatives": ["--model_name_or_path=x", "--sources=[]", "--output_dir=x"],
    "filter_pairs": ["--model_name_or_path=x", "--sources=[]", "--output_dir=x"],
    "matryoshka": ["--model_name_or_path=x", "--sources=[]", "--output_dir=x"],
    "quickstart": [],
}


def read(name):
    return yaml.safe_load((CONFIGS / name).read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_key_of_every_config_exists(file):
    layers = [file]
    while layers[0].parent.name in ("smoke", "gpu"):  # laid over the file of that name in the folder above
        layers.insert(0, layers[0].parents[1] / file.name)
    argv = [word for layer in layers if layer.exists() for word in ("--config", str(layer))]
    if file.parent != CONFIGS:
        argv += GIVEN[file.stem]
    if file.stem.startswith(("stage", "finetune", "matryoshka")):
        argv += ["--bf16", "false", "--use_cpu", "true"]
    if "_" in file.stem and file.stem.startswith(("stage2", "stage3")):  # laid over a config, or given sources
        argv = [*GIVEN[file.stem[:6]], *argv]
    # stage1_cpu and the like; what a study lays over stage 2
    kind = re.sub(r"^(stage\d)_.*|finetune_.*", lambda found: found[1] or "stage3", file.stem)
    kind = {"matryoshka": "stage2"}.get(kind, kind)
    parse_arguments(KINDS[kind], argv)


@pytest.mark.parametrize("name", [file.name for file in FILES if file.parent == CONFIGS])
def test_every_number_names_its_origin(name):
    for line in (CONFIGS / name).read_text().splitlines():
        if re.match(r"\w+: (true|false|[\d.]+)", line):
            assert re.search(r"# (paper (§|Table)|contrastors@613ddfd|ours)", line), line


def test_stage_1_is_the_papers():
    config = read("stage1.yaml")
    expected = {"mlm_probability": 0.3, "global_batch_size": 4096, "max_steps": 100_000, "learning_rate": 5e-4,
                "adam_beta1": 0.9, "adam_beta2": 0.98, "weight_decay": 1e-5, "max_grad_norm": 0.0,
                "warmup_steps": 0.06, "lr_scheduler_type": "linear", "bf16": True, "model": {}}  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert config["global_batch_size"] % (8 * config["per_device_train_batch_size"]) == 0  # on 8 GPUs, as in the paper


def test_stage_2_is_the_papers():
    config = read("stage2.yaml")
    expected = {"global_batch_size": 16_384, "learning_rate": 2e-4, "adam_beta1": 0.9, "adam_beta2": 0.999,
                "weight_decay": 0.01, "max_grad_norm": 1.0, "warmup_steps": 700, "num_train_epochs": 1,
                "lr_scheduler_type": "inverse_sqrt", "query_max_length": 2048, "document_max_length": 2048}  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    sources = [read_section(Source, entry, "stage2") for entry in config["sources"]]
    assert len({source.split for source in sources}) == 29  # Table 7
    for source in sources:  # paper §4.2.2: only retrieval is asymmetric
        assert source.query_prefix == source.document_prefix or source.query_prefix == "search_query"


def test_stage_3_is_the_papers():
    config = read("stage3.yaml")
    expected = {"global_batch_size": 256, "num_hard_negatives": 7, "learning_rate": 2e-5, "adam_beta1": 0.9,
                "adam_beta2": 0.999, "weight_decay": 0.01, "max_grad_norm": 1.0, "warmup_steps": 400,
                "num_train_epochs": 1, "lr_scheduler_type": "linear"}  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    sources = [read_section(Source, entry, "stage3") for entry in config["sources"]]
    assert len({source.split for source in sources}) == 10  # Table 3
    assert all(source.negatives for source in sources)
    retrieval = ("msmarco", "nq_", "hotpotqa", "fever")  # paper §4.2.2: asymmetric, the others are symmetric
    for source in sources:
        prefixes = (source.query_prefix, source.document_prefix)
        if source.name.startswith(retrieval):
            assert prefixes == ("search_query", "search_document"), source.name
        else:
            assert prefixes in [("classification",) * 2, ("clustering",) * 2], source.name


@pytest.mark.parametrize("name", ["stage2", "stage3", "stage1_continue"])
def test_stages_set_the_papers_dropout_whatever_their_start_says(name):
    assert read(f"{name}.yaml")["dropout"] == 0


def test_curation_is_the_papers():
    filtering, mining, raw = (read(f"{name}.yaml") for name in ("filter_pairs", "mine_negatives", "raw_sources"))
    assert (filtering["top_k"], filtering["sample_size"], mining["num_negatives"]) == (2, 1_000_000, 20)
    assert filtering["model_name_or_path"] == mining["model_name_or_path"] == "thenlper/gte-base"
    # what make_pairs writes is what the filter reads
    made = {
        source["name"]: (f"{raw['output_dir']}/{source['name']}", source["query_prefix"], source["document_prefix"])
        for source in raw["sources"]
        if source.get("available", "yes") == "yes"
    }
    read_ = {source["name"]: (source["path"], source["query_prefix"], source["document_prefix"])
             for source in filtering["sources"]}  # fmt: skip
    assert read_ == made and len(made) == 28


def test_the_supervised_sources_are_the_papers_from_raw_to_stage_3():
    raw, mining, training = (read(f"{name}.yaml") for name in ("raw_supervised", "mine_supervised", "stage3"))
    made = [read_section(RawSource, entry, "raw") for entry in raw["sources"]]
    mined = {entry["name"]: read_section(MiningSource, entry, "mining") for entry in mining["sources"]}
    assert (mining["num_negatives"], mining["model_name_or_path"]) == (20, "thenlper/gte-base")
    for source in made:
        reads = mined[source.name]
        assert reads.path == f"{raw['output_dir']}/{source.name}" and reads.draw == "random"
        assert (reads.query_prefix, reads.document_prefix) == (source.query_prefix, source.document_prefix)
        assert bool(reads.negatives) == bool(source.negatives) and reads.paper_rows == source.paper_rows
    assert {name for name, source in mined.items() if source.draw == "nearest"} == {
        "msmarco",
        "nq",
        "hotpotqa",
        "fever",
    }
    # Table 3, as the config of stage 3 has it
    table = sorted((entry["paper_rows"], entry["query_prefix"]) for entry in training["sources"])
    assert sorted((source.paper_rows, source.query_prefix) for source in mined.values()) == table
