import csv
import gzip
import json
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr

from benchmarks.quality import contrastive_runs, contrastive_scores
from benchmarks.quality.contrastive import main, models_of, stage1_models
from benchmarks.quality.contrastive_data import KEPT_ASIDE, PAIRS, RETRIEVAL_SETS, STS_SETS, prepare, read_tsv
from benchmarks.quality.contrastive_runs import Runs
from benchmarks.quality.contrastive_scores import EvaluationSets, KeptScores, interval, mean_draws, spearman_draws
from benchmarks.quality.retrieval_scores import bm25_query_scores
from curation.duplicates import normalize_text
from curation.embedding import EmbedderSettings
from curation.files import read_jsonl, write_jsonl
from curation.sections import read_section
from curation.sources import Source
from evaluation.retrieval import evaluate_bm25
from nomic_bert.files import write_json
from recipes.arguments import parse_arguments
from recipes.contrastive import ContrastiveArguments
from recipes.mine_negatives import MineArguments
from tests.trainers.toys import WORDS, encoder, tokenizer
from trainers import ContrastiveConfig

GLOSS = "a very old gloss of five words and more"


def write_tsv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        writer.writerows(rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A directory like the shared data, with repeats that `prepare` must find."""
    data, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def text(words=8):
        return " ".join(random.choice(WORDS, words))

    sentences = [text() for _ in range(12)] + [GLOSS]
    for name in STS_SETS:
        rows = [[one, text(), str(random.integers(0, 6))] for one in sentences]
        write_tsv(data / "sts" / f"{name}.tsv.gz", [["sentence1", "sentence2", "score"], *rows])
    for name in RETRIEVAL_SETS:
        beir = data / "retrieval" / name
        write_jsonl([{"_id": f"d{i}", "text": text(20)} for i in range(15)], beir / "corpus.jsonl.gz")
        write_jsonl([{"_id": f"q{i}", "text": text(4)} for i in range(9)], beir / "queries.jsonl.gz")
        judged = [[f"q{i}", f"d{i + j}", str(1 + j)] for i in range(9) for j in range(1 + i % 3)]
        write_tsv(beir / "qrels.tsv.gz", [["query-id", "corpus-id", "score"], *judged])
    for source in PAIRS.values():
        for file in source.files:
            # every document stands twice, once with its case changed
            rows = [{"query": text(5), "document": text(9)} for _ in range(30)]
            rows += [{"query": text(5), "document": row["document"].upper() + "!"} for row in rows]
            write_jsonl(rows, data / "pairs" / f"{file}.jsonl.gz")
    glosses = [{"query": text(1), "document": GLOSS, "examples": [text(20)]}]
    glosses += [{"query": text(1), "document": text(6), "examples": [text(7)]} for _ in range(20)]
    write_jsonl(glosses, data / "pairs" / "wordnet_gloss.jsonl.gz")
    trivia = [{"query": text(), "document": f"a{i}", "negatives": [f"b{i}", " ", f"A{i}."]} for i in range(20)]
    write_jsonl([*trivia, {"query": "q", "document": "a", "negatives": [""]}], data / "pairs" / "opentriviaqa.jsonl.gz")
    for file in "mnli_dev_80pct", "snli_dev_80pct":
        rows = [[p, text(), label] for p in (text() for _ in range(9)) for label in ("entailment", "contradiction")]
        rows += [[rows[0][0], "also contradicted", "contradiction"], [text(), text(), "entailment"]]
        rows += [["a premise", sentences[0], "entailment"], ["a premise", text(), "contradiction"]]
        write_tsv(data / "nli" / f"{file}.tsv.gz", [["premise", "hypothesis", "label"], *rows])
    return data


@pytest.fixture(scope="module")
def prepared(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("out") / "prepared"
    prepare(data, directory, (40, 16), 10, seed=0)
    return directory


def rows_of(directory, stage):
    return {file.name.split(".")[0]: list(read_jsonl(file)) for file in (directory / stage).glob("*.jsonl.gz")}


def test_no_training_text_is_kept_aside_or_evaluated(data, prepared):
    kept = [row for rows in rows_of(prepared, "kept_aside").values() for row in rows]
    assert len(kept) == 10 * len(KEPT_ASIDE)
    sets = EvaluationSets.read(data, prepared)
    known = {side: {normalize_text(row[side]) for row in kept} for side in ("query", "document")}
    evaluated = {normalize_text(text) for each in sets.similarity.values() for text in (*each.first, *each.second)}
    for stage in "stage2", "stage3":
        for name, rows in rows_of(prepared, stage).items():
            assert rows, name
            for row in rows:
                assert row.keys() <= {"query", "document", "negatives"}
                for side in known:
                    assert normalize_text(row[side]) not in known[side] | evaluated
    counts = json.loads((prepared / "counts.json").read_text())["left_out"]
    assert counts["medquad"]["same_as_kept_aside"] > 0
    assert counts["wordnet"]["in_evaluation_sets"] == 1  # a gloss, though its document holds an example too
    assert counts["nli"]["in_evaluation_sets"] == 2


def test_stage_3_has_pairs_that_stage_2_has_not_seen(prepared):
    stage2, stage3 = rows_of(prepared, "stage2"), rows_of(prepared, "stage3")
    assert len(stage2) == 8 and max(map(len, stage2.values())) <= 40 and max(map(len, stage3.values())) <= 16
    for name in "squad", "medquad", "manual_sections":
        seen = {(row["query"], row["document"]) for row in stage2[name]}
        assert not seen & {(row["query"], row["document"]) for row in stage3[name]}


def test_negatives_are_wrong_choices_and_contradictions(prepared):
    stage3 = rows_of(prepared, "stage3")
    for row in stage3["opentriviaqa"]:
        assert row["negatives"] == [row["document"].replace("a", "b")]
    left_out = json.loads((prepared / "counts.json").read_text())["left_out"]["opentriviaqa"]
    assert left_out == {"negatives_left_out": 41, "without_negatives": 1, "in_evaluation_sets": 0}
    assert all(row["negatives"] for row in stage3["nli"])


def test_overlays_name_files_that_are_there_and_mixed_texts_carry_their_prefixes(prepared):
    overlays = {file.stem: yaml.safe_load(file.read_text())["sources"] for file in prepared.glob("*.yaml")}
    sources = {name: [read_section(Source, each, name) for each in entries] for name, entries in overlays.items()}
    assert sources.keys() == {"stage2", "stage2-mixed", "stage2-no_prefixes", "stage3"}
    assert {s.name for s in sources["stage3"] if s.negatives} == {"nli", "opentriviaqa"}
    texts = []
    for source in sources["stage2"]:
        prefixes = [f"{prefix}: " for prefix in (source.query_prefix, source.document_prefix)]
        texts += [(prefixes[0] + r["query"], prefixes[1] + r["document"]) for r in read_jsonl(source.path)]
    assert [(r["query"], r["document"]) for r in read_jsonl(sources["stage2-mixed"][0].path)] == texts
    for source in sources["stage2-mixed"] + sources["stage2-no_prefixes"]:
        assert source.query_prefix == source.document_prefix == ""


def test_prepare_is_the_same_twice_and_keeps_what_is_there(data, prepared, tmp_path):
    prepare(data, tmp_path / "again", (40, 16), 10, seed=0)
    for file in prepared.rglob("*.jsonl.gz"):
        assert (tmp_path / "again" / file.relative_to(prepared)).read_bytes() == file.read_bytes()
    with pytest.raises(SystemExit, match="exists. Choose another --output_dir"):
        main(["prepare", "--data", str(data), "--output_dir", str(prepared)])


def test_a_damaged_table_is_named(tmp_path):
    write_tsv(tmp_path / "t.tsv.gz", [["a", "b"], ["1", "2"], ["3"]])
    with pytest.raises(ValueError, match=r"t.tsv.gz, line 3: 1 fields, not 2"):
        read_tsv(tmp_path / "t.tsv.gz", ("a",))
    with pytest.raises(ValueError, match="no column 'c'"):
        read_tsv(tmp_path / "t.tsv.gz", ("c",))


@pytest.fixture
def recipes(monkeypatch, tmp_path):
    """Recipes that parse their settings as the real ones and leave what the real ones leave."""
    ran = []

    def run(command):
        recipe, settings = command[1].rsplit("/", 1)[-1].removesuffix(".py"), command[2:]
        if recipe == "mine_negatives":
            args, embedder = parse_arguments(None, (MineArguments, EmbedderSettings), settings)
            for source in args.sources:
                mined = ({**row, "negatives": list("abcdef")} for row in read_jsonl(source["path"]))
                write_jsonl(mined, f"{args.output_dir}/{source['name']}/pairs-00000-of-00001.jsonl.gz")
                write_json(Path(args.output_dir, source["name"], "report.json"), {})
            assert args.source_prefixes
            ran.append((recipe, embedder.model_name_or_path, args.sources, args))
        else:
            settings += ["--use_cpu", "true"]
            start, args = parse_arguments(None, (ContrastiveArguments, ContrastiveConfig), settings)
            assert all(("negatives" in source) == (recipe == "stage3") for source in start.sources)
            encoder().save_pretrained(f"{args.output_dir}/final")
            tokenizer().save_pretrained(f"{args.output_dir}/final")
            ran.append((recipe, start.model_name_or_path, start.sources, args))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(contrastive_runs, "subprocess", types.SimpleNamespace(run=run))
    return ran


def test_every_run_starts_where_it_should_and_an_ablation_changes_one_thing(prepared, recipes, tmp_path):
    runs = Runs(tmp_path, prepared, {7: "one", 8: "two"}, stage3_rows=12)
    runs.train()
    assert len(recipes) == len(runs.names()) == 12 and all(map(runs.finished, runs.names()))
    ran = dict(zip(runs.names(), recipes, strict=True))
    for seed, model in (7, "one"), (8, "two"):
        assert ran[f"stage2-{seed}"][1] == model and ran[f"stage2-{seed}"][3].seed == seed
        for name in f"negatives-{seed}", f"stage3-{seed}":
            assert ran[name][1] == str(tmp_path / f"stage2-{seed}" / "final")
        assert {s["name"] for s in ran[f"negatives-{seed}"][2]} == {"squad", "medquad", "manual_sections"}
        assert all(source["limit"] == 12 for source in ran[f"stage3-{seed}"][2])

    def changed(name, twin):
        own, other = ran[name][3].to_dict(), ran[twin][3].to_dict()
        return {key for key in own if own[key] != other[key]} - {"output_dir", "logging_dir"}

    expected = {"stage2-mixed": set(), "stage2-no_prefixes": set(), "stage3-first_negatives": set(),
                "stage3-more_negatives": {"num_hard_negatives"}, "stage3-two_epochs": {"num_train_epochs"},
                "stage3-no_hard_negatives": {"num_hard_negatives"}}  # fmt: skip
    for name, keys in expected.items():
        twin = f"{name[:6]}-7"
        assert changed(name, twin) == keys, name
        assert ran[name][1] == ran[twin][1]
        names = {source["name"] for source in ran[name][2]}
        assert names == ({"mixed"} if name == "stage2-mixed" else {source["name"] for source in ran[twin][2]})
    for source in ran["stage3-first_negatives"][2]:
        lengths = {len(row["negatives"]) for row in read_jsonl(source["path"])}
        assert lengths == {4} if source["name"] in ("squad", "medquad", "manual_sections") else max(lengths) <= 4
    runs.train()
    assert len(recipes) == 12  # nothing twice


def test_a_run_out_of_turn_or_unknown_is_refused(prepared, recipes, tmp_path):
    runs = Runs(tmp_path, prepared, {7: "one"})
    with pytest.raises(ValueError, match="stage3-7 starts from stage2-7, which is not finished"):
        runs.train(["stage3-7"])
    with pytest.raises(ValueError, match="no run 'stage3-9'; there are stage2-7, negatives-7"):
        runs.train(["stage3-9"])
    runs.train(["stage2-7"])
    assert [recipe for recipe, *_ in recipes] == ["stage2"]
    with pytest.raises(ValueError, match="stage3-7 is not finished"):
        models_of(runs)
    assert stage1_models(["3=x", "1=y"]) == {3: "x", 1: "y"}
    for wrong in ["a=x"], ["1=x", "1=y"]:
        with pytest.raises(ValueError, match="each seed a whole number and given once"):
            stage1_models(wrong)


def test_spearman_draws_are_scipys():
    random = np.random.default_rng(1)
    judged = random.integers(0, 6, 80).astype(float)  # with ties
    scores = judged + random.normal(size=(2, 80)) * [[1], [3]]
    draws = spearman_draws(scores, judged)
    rows = np.random.default_rng(0).integers(80, size=80)
    for model in range(2):
        assert draws[model, 0] == pytest.approx(100 * spearmanr(scores[model], judged).statistic)
        assert draws[model, 1] == pytest.approx(100 * spearmanr(scores[model, rows], judged[rows]).statistic)


def test_mean_draws_vary_as_means_of_groups_do_and_differences_are_paired():
    random = np.random.default_rng(2)
    scores = (random.normal(size=(300, 1)) + random.normal(size=(300, 4))).ravel()
    groups = [f"d{i}" for i in range(300) for _ in range(4)]
    draws = mean_draws(np.stack([scores, scores + 1]), groups)
    means = scores.reshape(300, 4).mean(axis=1)
    assert draws[0, 0] == pytest.approx(scores.mean())
    assert draws[0, 1:].std() == pytest.approx(means.std() / 300**0.5, rel=0.1)
    assert interval(draws[1] - draws[0]) == pytest.approx((1, 1, 1))


def test_bm25_scores_have_the_mean_that_the_evaluator_gives(data, prepared):
    for each in EvaluationSets.read(data, prepared).retrieval.values():
        assert bm25_query_scores(each).mean() == pytest.approx(evaluate_bm25(each)["ndcg@10"])


def test_kept_scores_belong_to_a_model_and_what_they_were_made_from(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("a")

    def get(made_from, value):
        return KeptScores(tmp_path / "kept.json", model).get("toy", made_from, lambda: np.array([value])).item()

    assert [get([1], 0.1), get([1], 2), get([2], 3), get([2], 4)] == [0.1, 0.1, 3, 3]
    (model / "weights").write_text("b")
    assert get([2], 5) == 5


def test_evaluate_writes_tables_that_follow_from_the_models_own_scores(
    data, prepared, recipes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(contrastive_scores, "RESAMPLES", 50)
    for seed, factor in (7, 1), (8, 3):
        model = encoder(initializer_range=0.2 * factor)
        model.save_pretrained(tmp_path / f"stage1-{seed}")
        tokenizer().save_pretrained(tmp_path / f"stage1-{seed}")
    stage1 = [f"{seed}={tmp_path}/stage1-{seed}" for seed in (7, 8)]
    main(["train", "--data", str(prepared), "--stage1", *stage1, "--output_dir", str(tmp_path / "runs")])
    evaluation = ["evaluate", "--runs", str(tmp_path / "runs"), "--stage1", *stage1, "--data", str(data)]
    evaluation += ["--kept_aside", str(prepared), "--device", "cpu", "--output", str(tmp_path / "results")]
    evaluation += ["--reference", f"toy={tmp_path}/runs/stage3-8/final"]
    main(evaluation)
    (written,) = (tmp_path / "results").glob("*.json")
    result = json.loads(written.read_text())["result"]
    models, stage1_cells = result["models"], result["scores"]["stage 1"]
    assert len(models) == 3 * 2 + 6 + 2 + 3  # seeds, ablations, BM25 and a reference, stages
    for column, cell in stage1_cells.items():
        own = [models["stage1-7"][column], models["stage1-8"][column]]
        assert cell == pytest.approx({"score": np.mean(own), "least": min(own), "most": max(own)})
    retrieval = [*RETRIEVAL_SETS, "medquad, kept aside", "squad, kept aside"]
    for name, by_column in models.items():
        assert by_column["retrieval, mean"] == pytest.approx(np.mean([by_column[each] for each in retrieval])), name
    for column, (difference, low, high) in result["differences"]["stage 2 - stage 1"].items():
        assert difference == pytest.approx(models["stage 2"][column] - models["stage 1"][column])
        assert low <= difference <= high
    assert "STS, mean" not in result["differences"]["stage 3 - BM25"]
    # the same weights everywhere but in stage 1: only the run without prefixes reads other texts
    ablations = result["ablations"]["stage 2"] | result["ablations"]["stage 3"]
    moved = {name for name, cells in ablations.items() if any(cell[0] for cell in cells.values())}
    assert moved == {"stage2-no_prefixes"}
    page = written.with_suffix(".md").read_text()
    cell = stage1_cells["cranfield"]
    assert f"{cell['score']:.1f} ({cell['least']:.1f} to {cell['most']:.1f})" in page
    assert written.with_suffix(".png").stat().st_size > 10_000
    monkeypatch.setattr(contrastive_scores, "query_scores", None)  # all scores are kept
    main(evaluation)
    assert json.loads(written.read_text())["result"] == result
