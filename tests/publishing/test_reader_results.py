"""The table of programs says of each no more than what was seen, and the pages that show it are made from it."""

from dataclasses import replace

import pytest

from publishing.reader_results import (
    LibraryResult,
    ModelTests,
    ProgramResult,
    ProgramResults,
    ReaderResults,
    read_results,
    write_results,
)
from tests.readers.directories import DIRECTORIES
from tests.readers.libraries import TRIED
from tests.readers.programs import AUTHORS, PROGRAMS
from tests.readers.run import PAGE, directory_programs, results_page


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
    page = results_page(ReaderResults(directories={"bert": results}))
    assert "no such package" in page and "KeyError" in page


def test_a_program_is_as_expected_if_it_agrees_unless_it_is_known_not_to():
    good, bad = a_result({12: 1e-7}), a_result({}, failure="KeyError")
    assert [one.is_as_expected for one in (good, bad)] == [True, False]
    known = [replace(one, refusal="it has no converter") for one in (good, bad)]
    assert [one.is_as_expected for one in known] == [False, True]


def test_what_a_default_precision_costs_is_said_by_the_run():
    float32, bfloat16 = a_result({12: 1e-7}, precision="f32"), a_result({12: 3e-3}, precision="bf16", tolerance=1e-2)
    programs = [replace(float32, program="told"), bfloat16]
    results = ProgramResults(date="", hardware="", model="", programs=programs)
    assert [results.cost_of_default(name) for name in ("told", "reader", "absent")] == [
        ("f32", 1e-7), ("bf16", 3e-3), None,
    ]  # fmt: skip


def test_the_oldest_version_is_of_a_program_that_agreed_to_the_last_length():
    def program(version, alone):
        return a_result(alone, alone, versions={"transformers": version})

    good, short = {12: 1e-7, 8192: 1e-7}, {12: 1e-7, 8192: 1.0}
    programs = [program("5.24.0", good), program("4.41.2", good), program("4.9.0+cpu", short)]
    assert ProgramResults(date="", hardware="", model="", programs=programs).oldest("transformers") == "4.41.2"


def test_a_library_is_as_expected_if_its_embeddings_are_those_of_the_text_with_its_prefix():
    def library(differences, **changes):
        return LibraryResult(library="library", versions={"library": "1"}, differences=differences, **changes)

    good = library({"document": 1e-8, "query": 2e-8})
    no_prefix = library({"document": 1e-8, "query": 0.1})
    failed = library({}, failure="KeyError")
    assert [one.is_as_expected for one in (good, no_prefix, failed)] == [True, False, False]
    page = results_page(ReaderResults(directories={}, libraries=[good, failed]))
    assert "document 1e-08, query 2e-08" in page and "did not run: KeyError" in page


def test_each_library_has_lines_to_run_in_the_guide():
    for library in TRIED:
        assert library.lines
        for line in library.lines:
            compile(line, library.name, "eval")


def test_results_are_read_as_they_were_written(tmp_path):
    run = ProgramResults(date="d", hardware="h", model="m", programs=[a_result({12: 1e-7}, {12: 2e-7})])
    tests = ModelTests(version="5", passed=2, failed=1, skipped=0, differences={"test_a": "b"}, surprises=["test_a"])
    libraries = [LibraryResult(library="l", versions={"l": "1"}, differences={"document": 1e-8})]
    results = ReaderResults(directories={"bert": run}, libraries=libraries, model_tests=tests)
    write_results(results, tmp_path / "readers.json")
    assert read_results(tmp_path / "readers.json") == results
    assert read_results(tmp_path / "absent.json") is None


def test_the_page_is_made_from_the_figures():
    results = read_results()
    assert results is not None, "run `make readers ARGS=--publish`"
    assert PAGE.read_text(encoding="utf-8") == results_page(results)


def test_published_results_are_whole_and_as_expected():
    results = read_results()
    assert results is not None and results.model_tests is not None
    assert [*results.directories] == [directory.key for directory in DIRECTORIES]
    for directory in DIRECTORIES:
        run = results.directories[directory.key]
        assert [one.program for one in run.programs] == [program.name for program in directory_programs(directory)]
        for one, program in zip(run.programs, directory_programs(directory), strict=True):
            assert one.versions[program.packages[0]].split("+")[0] == program.label.rpartition(" ")[2]
        assert [one for one in run.programs if not one.is_as_expected] == []
    assert [one.library for one in results.libraries] == [library.name for library in TRIED]
    assert [one for one in results.libraries if not one.is_as_expected] == []
    assert results.model_tests.surprises == []


def test_readme_names_the_oldest_versions_that_were_run(repository):
    results = read_results()
    assert results is not None
    found = [results.directories[key].oldest("sentence-transformers") for key in ("bert", "matryoshka")]
    plain, matryoshka = (version.rpartition(".")[0] for version in found)
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert f"oldest tried: {plain}, with Matryoshka {matryoshka}" in readme


def test_known_refusals_name_programs_that_there_are():
    labels = {program.label for program in (*PROGRAMS, AUTHORS)}
    for directory in DIRECTORIES:
        assert {*directory.refuses} <= {*(directory.programs or labels)} <= labels


def test_texts_share_batches_around_the_trained_length():
    groups = {directory.key: [[directory.lengths[n] for n in group] for group in directory.groups]
              for directory in DIRECTORIES}  # fmt: skip
    assert groups["bert"] == [[12, 100, 513, 2048], [100, 2048, 2049, 2500], [12, 8192]]
    assert groups["quickstart"] == [[12, 100, 256], [100, 256, 257, 513], [12, 2048]]
