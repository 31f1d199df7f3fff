"""The table of programs says of each no more than what was seen, and the pages that show it are made from it."""

import pytest

from publishing.reader_results import ProgramResult, ProgramResults, read_program_results, write_program_results
from tests.readers.run import PAGE, results_page


def a_result(alone, together=None, **changes):
    content = {"program": "reader", "versions": {"reader": "1.2"}, "tolerance": 1e-5, "together": together or {}}
    return ProgramResult(**{**content, "alone": alone, **changes})


@pytest.mark.parametrize(
    ("alone", "together", "cells"),
    [
        ({12: 1e-7, 100: 2e-7, 8192: 3e-7}, {12: 4e-7, 100: 1e-7}, ["8,192", "100", "4.0e-07"]),
        # agreeing again later does not count
        ({12: 1e-7, 2048: 2e-7, 2049: 6e-3, 8192: 1e-7}, {}, ["2,048", "none", "2.0e-07"]),
        ({12: 1e-7, 100: 3e-7}, {12: 1e-2, 100: 1e-7}, ["100", "none", "3.0e-07"]),  # wrong beside longer texts
        ({12: float("nan")}, {}, ["none", "none", ""]),
        ({12: 1e-2}, {}, ["none", "none", ""]),
    ],
)
def test_a_program_agrees_up_to_the_first_text_that_it_reads_otherwise(alone, together, cells):
    (row,) = ProgramResults(date="", hardware="", model="", programs=[a_result(alone, together)]).rows()
    assert row[2:] == cells


def test_what_did_not_run_is_a_row_that_says_so_and_not_a_pass():
    programs = [a_result({}, versions={}, failure="no such package"), a_result({}, failure="KeyError")]
    results = ProgramResults(date="", hardware="", model="", programs=programs)
    assert [row[2] for row in results.rows()] == ["not installed", "did not run"]
    assert [one.alone_to or one.together_to for one in programs] == [0, 0]
    page = results_page(results)
    assert "no such package" in page and "KeyError" in page


def test_the_oldest_version_is_of_a_program_that_agreed_to_the_last_length():
    def program(version, alone):
        return a_result(alone, alone, versions={"transformers": version})

    good, short = {12: 1e-7, 8192: 1e-7}, {12: 1e-7, 8192: 1.0}
    programs = [program("5.24.0", good), program("4.41.2", good), program("4.9.0+cpu", short)]
    assert ProgramResults(date="", hardware="", model="", programs=programs).oldest("transformers") == "4.41.2"


def test_results_are_read_as_they_were_written(tmp_path):
    results = ProgramResults(date="d", hardware="h", model="m", programs=[a_result({12: 1e-7}, {12: 2e-7})])
    write_program_results(results, tmp_path / "readers.json")
    assert read_program_results(tmp_path / "readers.json") == results
    assert read_program_results(tmp_path / "absent.json") is None


def test_the_page_is_made_from_the_figures():
    results = read_program_results()
    assert results is not None, "run `make readers ARGS=--publish`"
    assert PAGE.read_text(encoding="utf-8") == results_page(results)
