"""What `--dry_run` says, for the paper's mixtures and for files."""

import json
from pathlib import Path

import pytest
import yaml

from curation.sources import Preview, Source
from nomic_bert.prompts import prefix_text
from recipes import stage2
from recipes.shared import mixture
from recipes.shared.mixture import describe_mixture
from tests.trainers.toys import encoder, tokenizer
from textfiles.settings import read_section
from trainers import ContrastiveConfig

CONFIGS = Path(__file__).resolve().parents[3] / "recipes" / "configs"
# rows of nomic-ai/nomic-embed-unsupervised-data and nomic-ai/nomic-embed-supervised-data
HUB_ROWS = {
    "reddit_title_body": 66_204_599, "paq": 53_874_545, "amazon_reviews": 39_357_860, "wikianswers": 10_087_503,
    "s2orc_title_abstract": 36_051_582, "s2orc_citation_titles": 7_722_225, "s2orc_abstract_citation": 7_639_890,
    "s2orc_abstract_body": 6_550_431, "wikipedia": 6_198_049, "gooaq": 1_281_138, "codesearch": 864_023,
    "agnews": 420_288, "npr": 365_075, "ccnews": 353_670, "cnn": 293_521, "yahoo_title_answer": 276_726,
    "amazonqa": 226_137, "yahoo_title_question": 213_320, "sentence_compression": 173_604, "yahoo_qa": 143_477,
    "altlex": 110_708, "eli5": 106_781, "simplewiki": 97_717, "wikihow": 96_029, "stackexchange_title_body": 80_695,
    "stackexchange_duplicate_questions": 73_210, "stackexchange_body_body": 65_689, "quora": 44_885, "squad": 25_117,
    "msmarco_distillation_simlm_rescored_reranked_min15": 485_721, "nli_simcse_50negs_fixed": 275_595,
    "reddit_triples": 200_000, "medi_supernli_sampled": 177_639, "hotpotqa_hn_mine_shuffled": 170_000,
    "fever_hn_mine": 140_085, "medi_sts_stackexchange_dupe": 100_591, "nq_cocondensor_hn_mine_reranked_min15": 70_002,
    "medi_sts_flickr_sampled": 51_186, "medi_sts_wiki_rephrasal": 25_000,
}  # fmt: skip


def describe(name, tmp_path, monkeypatch):
    config = yaml.safe_load((CONFIGS / name).read_text())
    sources = [read_section(Source, entry, name) for entry in config["sources"]]
    row = {"query": "word1 " * 5, "document": "word2 " * 3000, "negatives": ["word3"]}
    monkeypatch.setattr(mixture, "preview", lambda source, sample: Preview(HUB_ROWS[source.name], [row]))
    args = ContrastiveConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        prompts={
            s.name: {"query": prefix_text(s.query_prefix), "document": prefix_text(s.document_prefix)} for s in sources
        },
        **{key: config[key] for key in ("global_batch_size", "num_train_epochs", "warmup_steps", "learning_rate")},
    )
    return describe_mixture(sources, args, tokenizer())


def test_the_papers_stage_2_and_the_difference_to_it(tmp_path, monkeypatch):
    lines = describe("stage2.yaml", tmp_path, monkeypatch).splitlines()
    assert len(lines) == 1 + 29 + 4
    squad = next(line.split() for line in lines if line.startswith("squad "))
    # a hub row of 25,117 in batches of 16,384, and Table 7's 16,384
    assert squad[1:5] == ["25,117", "1", "1", "8,733"] and squad[-2:] == ["16,384", "1"]
    assert squad[5:8] == ["search_query", "/", "search_document"]
    assert squad[8:13] == ["9,", "9", "1504,", "2854", "33.3%"]  # the prefix is two tokens here
    assert "238,998,494 rows, of which an epoch uses 238,731,264 in 14,571 steps of 16,384" in lines[-3]
    assert "14,571 steps, of which 700 warm up to a learning rate of 0.0002" in lines[-2]
    assert "the paper: 234,553,344 rows in 14,316 steps; here +255 steps" in lines[-1]


def test_the_papers_stage_3(tmp_path, monkeypatch):
    lines = describe("stage3.yaml", tmp_path, monkeypatch).splitlines()
    steps = sum(
        HUB_ROWS[source["name"]] // 256 for source in yaml.safe_load((CONFIGS / "stage3.yaml").read_text())["sources"]
    )
    assert f"{steps:,} steps, of which 400 warm up" in lines[-2]
    assert f"the paper: 1,692,672 rows in 6,612 steps; here {steps - 6612:+,} steps" in lines[-1]


def test_the_ablated_mixture_is_stage_3_without_three_families():
    whole, ablated = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("stage3", "stage3_ablated"))
    left_out = ("fever", "hotpotqa", "medi")
    expected = [source for source in whole["sources"] if not source["name"].startswith(left_out)]
    assert ablated["sources"] == expected and len(expected) == 4


def test_a_dry_run_of_files_trains_nothing(tmp_path, capsys):
    encoder().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"query": f"word{n} word1", "document": "word2 " * (n + 1)} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "mine", "path": str(tmp_path / "pairs.jsonl"), "weight": 1.5}
    source |= {"query_prefix": "classification", "document_prefix": ""}
    argv = ["--model_name_or_path", str(tmp_path / "model"), "--sources", json.dumps([source]), "--bf16", "true"]
    argv += ["--output_dir", str(tmp_path / "out"), "--global_batch_size", "8", "--dry_run"]
    assert stage2.main(argv) is None
    printed = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in printed if line.startswith("mine "))
    assert row == [
        "mine",
        "20",
        "1.5",
        "3",
        "4",
        "classification",
        "/",
        "-",
        "6,",
        "6",
        "12,",
        "21",
        "0.0%",
    ]
    assert "20 rows, of which an epoch uses 24 in 3 steps of 8" in printed[-2]
    assert printed[-3].startswith("estimated peak memory of a GPU: ")
    assert not (tmp_path / "out").exists()


def test_a_source_whose_rows_nobody_knows_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mixture, "preview", lambda source, sample: Preview(None, []))
    source = Source(name="x", path="a/b", query_prefix="", document_prefix="")
    with pytest.raises(ValueError, match="'x': the hub does not say how many rows"):
        describe_mixture([source], ContrastiveConfig(output_dir=str(tmp_path), use_cpu=True), tokenizer())
