from decimal import Decimal

import pytest

from evaluation import reported
from evaluation.protocol import LENGTHS
from evaluation.report.task_scores import paper_tasks
from evaluation.reported import JINA, LOCO, MISPRINTS, MTEB, OVERVIEW, TABLES
from evaluation.tasks import lists


def bounds(number):
    """What a printed number may stand for."""
    half = Decimal(1).scaleb(number.as_tuple().exponent) / 2
    return number - half, number + half


def meet(one, other):
    return one[0] <= other[1] and other[0] <= one[1]


def faulty_averages():
    for table in TABLES:
        for row in table.rows:
            if row.average is None:
                continue
            weights = [table.columns[column] for column in row.scores]
            ends = zip(*map(bounds, row.scores.values()), strict=True)
            mean = tuple(sum(w * x for w, x in zip(weights, end, strict=True)) / sum(weights) for end in ends)
            if not meet(mean, bounds(row.average)):
                yield table.number, row.model, row.length, "Avg", row.average, round(sum(mean) / 2, 1)


def faulty_between_tables():
    for row in OVERVIEW.rows:
        for column, table, length in (("MTEB", MTEB, None), ("LoCo", LOCO, row.length), ("Jina LC", JINA, 8191)):
            other = table.find(row.model, length)
            if column in row.scores and not meet(bounds(row.scores[column]), bounds(other.average)):
                yield table.number, row.model, length, "Avg", other.average, row.scores[column]


def test_the_misprints_are_those_that_recomputing_finds():
    found = [*faulty_averages(), *faulty_between_tables()]
    listed = [(m.table, m.model, m.length, m.column, m.printed, m.recomputed) for m in MISPRINTS]
    assert sorted(found, key=str) == sorted(listed, key=str)
    assert (4, "e5-base", None, "Avg", Decimal("61.6"), Decimal("62.2")) in found


def test_the_remark_on_e5_base_is_true():
    one, other = MTEB.find("e5-base", None), MTEB.find("e5-large-v2", None)
    assert sum(one.scores[column] == other.scores[column] for column in MTEB.columns) == 6


def test_every_row_is_in_the_paper(shared_data):
    paper = shared_data.parent / "paper" / "nomic_embed_2402.01613.txt"
    if not paper.is_file():
        pytest.skip(f"no {paper}")
    # The text of the file has spaces within numbers: "0. 79".
    text = "".join(paper.read_text(encoding="utf-8").split())
    sizes = {1: 7, 2: 5, 4: 20, 5: 18, 6: 14}
    for table in TABLES:
        assert len(table.rows) == sizes[table.number]
        for row in table.rows:
            length = str(row.length) if table in (JINA,) else ""
            cells = [str(row.scores.get(column, "N/A")) for column in table.columns]
            average = [] if row.average is None else [str(row.average)]
            assert length + "".join(cells + average) in text, (table.number, row.model)


def test_columns_are_the_tasks_that_are_run():
    types = [task.metadata.type for task in paper_tasks().values()]
    assert {kind: types.count(kind) for kind in MTEB.columns} == MTEB.columns
    assert sum(MTEB.columns.values()) == 56
    assert set(JINA.columns) == set(lists.JINA_LONG_CONTEXT)
    assert set(LOCO.columns) == set(lists.LOCO)
    assert {row.length for row in JINA.rows} == set(LENGTHS["JinaLongContext"])
    assert {row.length for row in LOCO.rows} == set(LENGTHS["LoCo"])


def test_a_row_with_a_number_too_few_is_refused():
    with pytest.raises(AssertionError, match="Table 9, m: 1 numbers and not 2"):
        reported._read(9, {"a": 1}, "m - 1.0")
