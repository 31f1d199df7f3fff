import json
import re

import numpy as np
import pytest

from evaluation.report.__main__ import main
from evaluation.report.page import circle
from evaluation.report.task_scores import aggregate_parts, paper_tasks
from evaluation.reported import GLUE, JINA, LOCO
from tests.evaluation.report.result_trees import save, save_bm25, save_glue, save_splits

MTEB_SCORES = {task: 20 + 1.1 * place for place, task in enumerate(sorted(paper_tasks()))}
GLUE_SCORES = dict(zip(GLUE.columns, (0.51, 0.92, 0.886, 0.9, 0.92, 0.86, 0.92, 0.8), strict=True))


class Page:
    """A report that was written, and its tables: heading -> rows of cells."""

    def __init__(self, directory):
        self.directory = directory
        self.text = (directory / "report.md").read_text(encoding="utf-8")
        self.json = json.loads((directory / "report.json").read_text(encoding="utf-8"))
        self.sections = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", self.text, re.MULTILINE | re.DOTALL))

    def rows(self, heading):
        """Each row as column -> cell."""
        lines = [line.strip("| ").split(" | ") for line in self.sections[heading].splitlines() if line[:1] == "|"]
        return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]

    def row(self, heading, model, tokens=None):
        found = [
            row
            for row in self.rows(heading)
            if row[next(iter(row))].strip("*¹") == model and (tokens is None or row["Tokens"] == tokens)
        ]
        assert len(found) == 1, (model, tokens, found)
        return found[0]


@pytest.fixture
def report(tmp_path, capsys):
    def write(*arguments):
        main([str(tmp_path / "results"), "--output_dir", str(tmp_path / "report"), *arguments])
        return Page(tmp_path / "report")

    return write


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def save_all(results, scores, **options):
    for task, percent in scores.items():
        save(results, task, percent, **options)


def test_the_average_of_mteb_is_over_56_tasks_and_that_of_a_category_over_its_tasks(results, report):
    save_all(results, MTEB_SCORES)
    page = report()
    row = page.row("MTEB (Table 4)", "ours")
    overall = np.mean(list(MTEB_SCORES.values()))
    assert row["Average (56)"] == f"**{overall:.2f}** 🔴 {overall - 62.4:+.2f}"
    weighted = 0.0
    for title, category, count, paper in (
        ("Classification (12)", "Classification", 12, 74.1),
        ("Clustering (11)", "Clustering", 11, 43.9),
        ("Pair class. (3)", "PairClassification", 3, 85.2),
        ("Reranking (4)", "Reranking", 4, 55.7),
        ("Retrieval (15)", "Retrieval", 15, 52.8),
        ("STS (10)", "STS", 10, 82.1),
        ("Summ.", "Summarization", 1, 30.1),
    ):
        of = [MTEB_SCORES[task] for task, known in paper_tasks().items() if known.metadata.type == category]
        assert len(of) == count
        weighted += count * np.mean(of)
        sign = "🟢" if np.mean(of) > paper else "🔴"
        assert row[title] == f"**{np.mean(of):.2f}** {sign} {np.mean(of) - paper:+.2f}"
    assert weighted / 56 == pytest.approx(overall)
    assert page.row("Overview (Table 1)", "ours")["MTEB (56)"] == f"**{overall:.2f}** 🔴 {overall - 62.39:+.2f}"
    assert "missing" not in page.sections["MTEB (Table 4)"]
    assert page.json["plots"] == {"overview": "overview.png"}


def test_without_one_task_there_is_no_average(results, report):
    save_all(results, {task: score for task, score in MTEB_SCORES.items() if task != "STS22"})
    page = report()
    row = page.row("MTEB (Table 4)", "ours")
    assert (row["Average (56)"], row["STS (10)"]) == ("– (55 of 56)", "– (9 of 10)")
    assert row["Reranking (4)"].startswith("**")
    assert page.row("Overview (Table 1)", "ours")["MTEB (56)"] == "– (55 of 56)"
    assert "- **ours at 512**: missing 1 of 56: STS22\n" in page.text
    (cell,) = [row["average"] for row in page.json["tables"]["mteb"]["rows"] if row["model"] == "ours"]
    assert (cell["score"], cell["difference"], cell["present"]) == (None, None, 55)
    assert "overview" not in page.json["plots"]


def test_what_is_missing_is_named_by_category_where_all_of_it_is(results, report):
    save_all(results, {"SciFact": 70, "ArguAna": 50})
    save(results, aggregate_parts()[0], 30)
    page = report()
    line = next(line for line in page.text.splitlines() if "missing 54 of 56" in line)
    assert "all 12 of Classification, all 11 of Clustering, all 3 of Pair class., all 4 of Reranking, " in line
    assert "all 10 of STS, SummEval" in line
    assert "CQADupstackRetrieval, ClimateFEVER, " in line
    assert "CQADupstackRetrieval: no score, 1 of its 12 parts are there" in page.text
    assert [row["Task"] for row in page.rows("MTEB task by task")] == ["ArguAna", "SciFact"]
    assert "Other tasks" not in page.sections


@pytest.mark.parametrize(
    ("difference", "shown"), [(0.05, "⚪"), (-0.05, "⚪"), (62.45 - 62.4, "⚪"), (0.0501, "🟢"), (-0.0501, "🔴")]
)
def test_a_difference_within_rounding_is_none(difference, shown):
    assert circle(difference, 0.05) == shown


def test_long_context_rows_stand_against_the_paper_at_their_own_length(results, report):
    for length, scores in {128: (20, 90.3, 65.42, 18), 8191: (40, 84, 70, 25), 2048: (30, 85, 70, 24)}.items():
        save_all(results, dict(zip(JINA.columns, scores, strict=True)), length=length)
    page = report()
    heading = "Jina's long-context benchmark (Table 5)"
    short, middle, long = (page.row(heading, "ours", tokens) for tokens in ("128", "2,048", "8,191"))
    assert list(short) == ["Model", "Tokens", "NarrativeQA", "WikiCities", "SciFact", "BigPatent", "Average (4)"]
    assert list(short.values())[2:] == [
        "**20.00** 🔴 -0.10", "**90.30** 🟢 +0.30", "**65.42** ⚪ +0.02", "**18.00** 🔴 -0.50", "**48.43** 🔴 -0.07",
    ]  # fmt: skip
    assert list(long.values())[2:] == [
        "**40.00** 🟢 +2.20", "**84.00** 🔴 -0.30", "**70.00** 🔴 -0.20", "**25.00** 🟢 +0.50", "**54.75** 🟢 +0.55",
    ]  # fmt: skip
    assert list(middle.values())[2:] == ["**30.00**", "**85.00**", "**70.00**", "**24.00**", "**52.25**"]
    section = page.sections[heading]
    assert "ours at 2,048: the paper has lengths 128, 512, 8,191 only" in section
    assert "- **ours**: not run at 512 tokens" in section
    assert "text-embedding-3-large at 512, Avg: 59.6 is printed, and it is 59.8" in section
    assert "MTEB (Table 4)" not in page.sections, "SciFact alone does not make it a run of MTEB"
    assert page.row("Overview (Table 1)", "ours")["Jina LC (4)"] == "**54.75** 🟢 +0.59"


def test_an_average_at_another_length_says_so_in_the_overview(results, report):
    save_all(results, dict.fromkeys(LOCO.columns, 80.0), length=2048)
    save_all(results, dict.fromkeys(list(LOCO.columns)[:4], 85.0), length=8192)
    page = report()
    assert page.row("Overview (Table 1)", "ours")["LoCo (5)"] == "**80.00** (at 2,048)"
    row = page.row("LoCo (Table 6)", "ours", "8,192")
    assert list(row)[2:-1] == ["SummScreenFD", "GovReport", "QMSum", "QASPER title", "QASPER abstract"]
    assert (row["GovReport"], row["QASPER abstract"], row["Average (5)"]) == ("**85.00** 🔴 -12.80", "–", "– (4 of 5)")
    assert "- **ours at 8,192**: missing 1 of 5: QASPER abstract" in page.text


def test_scifact_of_mteb_is_no_run_of_jinas_benchmark(results, report):
    save_all(results, {"SciFact": 70, "STS12": 70})
    page = report()
    assert "MTEB (Table 4)" in page.sections
    assert "Jina's long-context benchmark (Table 5)" not in page.sections
    assert "There are no results of Jina's long-context benchmark, LoCo, GLUE." in page.text


def test_glue_stands_in_fractions_with_the_runs_behind_it(results, report):
    save_glue(results, "whole", {task: ("accuracy", score) for task, score in GLUE_SCORES.items()})
    save_glue(results, "part", {"rte": ("accuracy", 0.7)})
    page = report()
    row = page.row("GLUE (Table 2)", "whole")
    assert row["Cola"] == "**0.510** 🟢 +0.010"
    assert row["MRPC"] == "**0.886** 🟢 +0.006"
    assert row["SST2"] == "**0.920** 🔴 -0.010"
    assert row["Average (8)"] == "**0.840** ⚪ +0.000"
    part = page.row("GLUE (Table 2)", "part")
    assert (part["RTE"], part["Average (8)"]) == ("**0.700** 🔴 -0.120", "– (1 of 8)")
    assert "- **part**: missing 7 of 8: Cola, SST2, MRPC, STSB, QQP, MNLI, QNLI" in page.text
    runs = page.row("The runs behind each number", "part")["Unlike the paper"]
    assert runs == "1 of 5 seeds; 1 of 6 configurations; started from encoder, the paper starts from MNLI"
    assert page.json["plots"] == {"glue": "glue.png"}


def test_other_tasks_stand_by_model_and_length_with_bm25_last(results, report):
    for length, percent in ((512, 35.0), (8192, 57.0)):
        save(results, "a|b_summaries", percent, length=length)
    save_bm25(results, "a|b_summaries", 85.5)
    page = report()
    (row,) = page.rows("Other tasks")
    assert list(row.items()) == [
        ("Task", "a\\|b\\_summaries"), ("Metric", ""), ("ours at 512", "35.00"), ("ours at 8,192", "57.00"),
        ("bm25", "85.50"),
    ]  # fmt: skip
    assert page.json["plots"] == {"other_tasks": "other_tasks.png"}
    assert page.sections["Other tasks"].count("bm25") == 1
    assert "different data" not in page.text


def test_what_a_task_left_out_is_noted_and_names_from_data_cannot_leave_their_place(results, report):
    """Names, prompts and tasks come from files of others, and the page is shown as HTML."""
    image = "<img src=https://example.org/x>![x](https://example.org)"
    save(results, "mine", 35.0, protocol={"prompts": {"query": f"{image}`|{image}"}})
    (file,) = results.rglob("mine.json")
    content = json.loads(file.read_text())
    ((scores,),) = content["scores"].values()
    scores["blank_rows_left_out"] = 32
    file.write_text(json.dumps(content))
    save_glue(results, f"{image}"[:4] + "b>*bold*", {"rte": ("accuracy", 0.7)})
    page = report("--note", "**a note** of one's own")
    assert "mine: 32 rows with a blank text were left out (data local-0123456789ab)." in page.text
    assert page.json["models"][0]["runs"][0]["scores"]["mine"]["left_out"] == {"blank_rows_left_out": 32}
    assert "**a note** of one's own" in page.text
    visible = re.sub(r"(`+) ?.*?(?<!`)\1(?!`)", "", page.text)  # code spans show what they hold
    visible = re.sub(r"\\.", "", visible)  # so does a character after a backslash
    assert "example.org" in page.text and "example.org" not in visible
    assert "<im" not in visible and "*bold" not in visible


def test_one_task_on_different_data_is_noted(results, report):
    save(results, "mine", 35.0)
    save(results, "mine", 36.0, weights="f" * 16, dataset_revision="local-ffffffffffff")
    note = (
        "mine was run on different data (local-0123456789ab: ours (0a1b2c3) at 512; local-ffffffffffff: ours (fffffff)"
    )
    assert note in report().text


def test_where_numbers_are_not_like_for_like_is_said(results, report):
    save(results, "STS12", 70, name="org/own", protocol={"rules": "model"})
    save(results, "STS12", 70, name="org/cut", protocol={"max_seq_length": 256})
    save(results, "STS12", 70, name="org/long", length=8192, protocol={"rotary_scaling_factor": 4.0})
    save(results, "STS12", 70, name="org/old", dataset_revision="e" * 40)
    save(results, "STS12", 70, name="org/files", dataset_revision="local")
    save_splits(results, "STS12", {"test": {"default": 0.7}}, name="org/foreign")
    section = report().sections["MTEB (Table 4)"]
    for line in (
        'org/own at 512: evaluated by its own rules ("model")',
        "org/cut at 256: 512 tokens were asked for, and the model reads 256.",
        "org/cut at 256: texts are truncated to 256 tokens, in the paper to 512.",
        "org/long at 8,192: texts are truncated to 8,192 tokens, in the paper to 512.",
        "org/long at 8,192: texts beyond the trained length are read with alpha 4, in the paper with alpha 2.",
        "org/old at 512: data of another revision than mteb has now: STS12 (eeeeeee).",
        "org/files at 512: data from local files, of whatever revision: STS12.",
        "org/foreign: no protocol.json is beside the results, so length, prompts and rules are not known.",
        "e5-base, Avg: 61.6 is printed, and it is 62.2 by the row's own numbers",
    ):
        assert line in section
    assert section.count("own rules") == 1


def test_other_rows_of_the_paper_can_be_chosen(results, report):
    save_all(results, MTEB_SCORES)
    page = report("--compare", "bge-base", "nomic-embed-text-v1")
    assert [row["Model"] for row in page.rows("MTEB (Table 4)")] == ["bge-base¹", "nomic-embed-text-v1", "**ours**"]
    overall = np.mean(list(MTEB_SCORES.values()))
    assert page.row("MTEB (Table 4)", "ours")["Average (56)"].endswith(f"{overall - 63.6:+.2f}")
    # Table 1 has the second of them only
    assert page.row("Overview (Table 1)", "ours")["MTEB (56)"].endswith(f"{overall - 62.39:+.2f}")
    with pytest.raises(SystemExit, match=r"error: --compare 'bge': the paper's tables have bge-base, bge-large"):
        report("--compare", "bge")


def test_the_json_file_has_the_numbers_of_the_page(results, report):
    save_all(results, MTEB_SCORES)
    for length in (128, 512):
        save_all(results, dict.fromkeys(JINA.columns, 60.0), length=length, weights="f" * 16)
    save_glue(results, "encoder", {task: ("accuracy", score) for task, score in GLUE_SCORES.items()})
    page = report()
    headings = {"overview": "Overview (Table 1)", "mteb": "MTEB (Table 4)", "glue": "GLUE (Table 2)"}
    headings["jina_long_context"] = "Jina's long-context benchmark (Table 5)"
    assert page.json["tables"].keys() == headings.keys()
    for key, heading in headings.items():
        rows = page.json["tables"][key]["rows"]
        assert len(rows) == len(page.rows(heading))
        for row, shown in zip(rows, page.rows(heading), strict=True):
            cells = [*row["cells"].values(), *([row["average"]] if row["average"] else [])]
            texts = list(shown.values())[-len(cells) :]
            for cell, text in zip(cells, texts, strict=True):
                if cell["score"] is None:
                    assert text.startswith("–")
                else:
                    number = float(text.split()[0].strip("*"))
                    assert number == pytest.approx(cell["score"], abs=0.005)
                    assert (cell["difference"] is not None) == any(sign in text for sign in "🟢🔴⚪")
    (model,) = [model for model in page.json["models"] if model["weights"] == "f" * 16]
    assert [run["length"] for run in model["runs"]] == [128, 512]
    assert model["runs"][0]["protocol"]["prompts"]["query"] == "search_query: "
    assert model["runs"][0]["scores"]["SciFact"]["score"] == pytest.approx(60)


def test_plots_show_scores_against_length_with_the_papers_dashed(results, report, figures):
    for length, percent in ((2048, 80.0), (8192, 90.0)):
        save_all(results, dict.fromkeys(LOCO.columns, percent), length=length)
    for task in LOCO.columns:
        save_bm25(results, task, 70.0)
    page = report()
    assert page.json["plots"] == {"overview": "overview.png", "loco": "loco.png"}
    panels = {axis.get_title(): axis for axis in figures["loco.png"].axes}
    assert list(panels) == ["SummScreenFD", "GovReport", "QMSum", "QASPER title", "QASPER abstract", "Average"]
    lines = {line.get_label(): line for line in panels["QMSum"].lines}
    assert lines["ours"].get_xydata().tolist() == [[2048, 80], [8192, 90]]
    assert lines["nomic-embed-text-v1 (paper)"].get_xydata().tolist() == [[2048, 47.8], [4096, 45.7], [8192, 44.2]]
    assert (lines["ours"].get_linestyle(), lines["nomic-embed-text-v1 (paper)"].get_linestyle()) == ("-", "--")
    assert set(lines["bm25"].get_ydata()) == {70.0}
    assert "text-embedding-ada-002 (paper)" not in lines, "one point is no line"
    (bars,) = figures["overview.png"].axes
    heights = {(bar.get_label(), round(float(bar.patches[0].get_width()), 2)) for bar in bars.containers}
    assert heights == {
        ("nomic-embed-text-v1 (paper)", 85.53), ("jina-embeddings-v2-base-en (paper)", 85.45),
        ("text-embedding-3-small (paper)", 82.4), ("text-embedding-ada-002 (paper)", 52.7),
        ("ours", 90.0), ("bm25", 70.0),
    }  # fmt: skip
    for name in page.json["plots"].values():
        assert (page.directory / name).stat().st_size > 1000
        assert f"]({name})" in page.text


def test_negative_scores_and_lengths_close_together_are_drawn_readably(results, report, figures):
    save_glue(results, "encoder", {"cola": ("matthews", -0.1)})
    for length in (512, 8191, 8192):
        save(results, "mine", 50, length=length)
    report()
    (bars,), (lines,) = figures["glue.png"].axes, figures["other_tasks.png"].axes
    assert bars.get_xlim()[0] < -0.1
    assert [label.get_text() for label in lines.get_xticklabels()] == ["512", "8,191"]
    assert len(lines.lines[0].get_xdata()) == 3


def test_results_are_only_read(results, report):
    save_all(results, dict.fromkeys(JINA.columns, 60.0))
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    first = report().text
    assert report().text == first
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_what_cannot_be_read_ends_the_command_with_one_line(results, report, tmp_path):
    file = save(results, "SciFact", 60)
    file.write_text("{")
    with pytest.raises(SystemExit, match="error: .*SciFact.json cannot be read"):
        report()
    assert not (tmp_path / "report").exists()


def test_a_note_stands_under_the_title(report, results):
    save_bm25(results, "SciFact", 66.0)
    page = report("--note", "2 cores, no GPU")
    assert page.text.startswith("# Evaluation\n\n2 cores, no GPU\n\n")
    assert page.json["note"] == "2 cores, no GPU"
