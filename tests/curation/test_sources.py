import json
import os
import pickle
import re
import threading

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import sources
from curation.sources import Source, open_pairs, preview
from textfiles import rows as row_files
from textfiles import writing
from textfiles.rows import rows_of
from textfiles.settings import read_section
from textfiles.writing import write_jsonl

ROWS = [{"query": f"query {number}", "document": f"document {number}", "other": number} for number in range(5)]


@pytest.fixture(autouse=True)
def copies(tmp_path_factory, monkeypatch):
    """Where copies go when no place is named, empty for each test."""
    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return cache / "nomic_pairs"


def source(path, **fields):
    return Source(name="s", path=str(path), query_prefix="search_query", document_prefix="search_document", **fields)


def write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_come_back_from_jsonl_as_they_were_written(tmp_path, name):
    rows = [*ROWS, {"query": "Ünïcode \u2028 and\nlines", "document": "d", "other": None}]
    assert write_jsonl(rows, tmp_path / name) == 6
    assert list(rows_of(tmp_path / name)) == rows
    pairs = open_pairs(source(tmp_path / name))
    assert pairs.column_names == ["query", "document"]
    assert pairs.to_list() == [{"query": row["query"], "document": row["document"]} for row in rows]


def test_parquet_directory_and_glob_give_the_rows_of_sorted_files(tmp_path):
    for name, part in (("b.parquet", ROWS[3:]), ("a.parquet", ROWS[:3])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / name)
    (tmp_path / "notes.md").write_text("passed over")
    (tmp_path / ".partial-1-c.jsonl").write_text('{"half')
    expected = [row["query"] for row in ROWS]
    assert open_pairs(source(tmp_path))["query"] == expected
    assert open_pairs(source(tmp_path / "*.parquet"))["query"] == expected
    assert open_pairs(source(tmp_path, limit=4))["query"] == expected[:4]


def test_columns_are_renamed_and_negatives_kept(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": "x", "d": "y", "n": ["z", "w"]}, {"q": "x", "d": "y", "n": []}])
    pairs = open_pairs(source(path, query="q", document="d", negatives="n"))
    assert pairs.to_list() == [
        {"query": "x", "document": "y", "negatives": ["z", "w"]},
        {"query": "x", "document": "y", "negatives": []},
    ]


GOOD = {"query": "q", "document": "d", "negatives": ["n"]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"query": "q"}, "no column 'document'; the columns are query"),
        ({**GOOD, "query": 3}, "column 'query': the int '3'"),
        ({**GOOD, "document": None}, "column 'document': null"),
        ({**GOOD, "document": " \n\t"}, "column 'document': the text is blank"),
        ({**GOOD, "query": "\ud800"}, "column 'query': not valid Unicode"),
        ({**GOOD, "negatives": "n"}, "column 'negatives': the str 'n', not a list"),
        ({**GOOD, "negatives": ["n", ""]}, "column 'negatives': the text is blank"),
        ('{"query": "q", ', "not valid JSON"),
        ("[1]", "a list, not an object"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(tmp_path, bad, message):
    path = write(tmp_path / "a.jsonl", [GOOD, "", bad, GOOD])
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3") + "[,:] " + re.escape(message)):
        open_pairs(source(path, negatives="negatives"))


def test_a_bad_parquet_row_is_counted_across_batches(tmp_path):
    rows = [{"query": "q", "document": "d"}] * 25_000
    pq.write_table(pa.Table.from_pylist([*rows, {"query": "q", "document": None}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet, row 25001, column 'document'"):
        open_pairs(source(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match="no column 'body'; the columns are query, document.*set query, .* or layout"):
        open_pairs(source(tmp_path / "a.parquet", document="body"))


def test_missing_empty_and_unreadable_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.jsonl"):
        open_pairs(source(tmp_path / "nothing.jsonl"))
    with pytest.raises(ValueError, match="cannot read this kind of file"):
        open_pairs(source(write(tmp_path / "a.xlsx", ["query,document"])))
    with pytest.raises(ValueError, match="no rows in"):
        open_pairs(source(write(tmp_path / "empty.jsonl", [])))


def test_rows_stay_on_the_disk_and_the_copy_is_made_once(tmp_path, copies, monkeypatch):
    path = write(tmp_path / "a.jsonl", ROWS)
    pairs = open_pairs(source(path))
    (copy,) = copies.glob("*.arrow")
    assert [file["filename"] for file in pairs.cache_files] == [str(copy)]
    with monkeypatch.context() as patched:
        patched.setattr(sources, "read_row_batches", None)  # nothing may be read again
        assert open_pairs(source(path)).to_list() == pairs.to_list()
    workers = pickle.loads(pickle.dumps(pairs))
    assert workers[[4, 0]] == pairs[[4, 0]] and len(pickle.dumps(pairs)) < 5_000


def test_of_several_processes_one_makes_the_copy_and_the_others_wait(tmp_path, copies, monkeypatch):
    path, begun, opened = write(tmp_path / "a.jsonl", ROWS), threading.Semaphore(0), []
    goes_on, read = threading.Event(), sources.read_row_batches

    def slow(*arguments):
        begun.release()
        assert goes_on.wait(20)
        return read(*arguments)

    monkeypatch.setattr(sources, "read_row_batches", slow)
    ranks = [threading.Thread(target=lambda: opened.append(open_pairs(source(path)).to_list())) for _ in range(3)]
    for rank in ranks:
        rank.start()
    assert begun.acquire(timeout=20)
    assert not begun.acquire(timeout=0.3) and not opened, "another one reads too, or does not wait"
    goes_on.set()
    for rank in ranks:
        rank.join()
    assert opened == [open_pairs(source(path)).to_list()] * 3 and not begun.acquire(blocking=False)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, copies, monkeypatch):
    path, read = write(tmp_path / "a.jsonl", ROWS), sources.read_row_batches

    def changing(*arguments):
        yield from read(*arguments)
        write(path, ROWS[:3])

    monkeypatch.setattr(sources, "read_row_batches", changing)
    with pytest.raises(ValueError, match=r"a\.jsonl was changed while it was read; start again"):
        open_pairs(source(path))
    monkeypatch.undo()
    assert open_pairs(source(path)).num_rows == 3


def test_what_a_killed_process_left_of_a_copy_is_removed(tmp_path, copies):
    copies.mkdir(parents=True, exist_ok=True)
    (copies / ".partial-0123456789abcdef-copy.arrow").write_bytes(b"half")
    open_pairs(source(write(tmp_path / "a.jsonl", ROWS)))
    assert sorted(path.suffix for path in copies.iterdir()) == [".arrow", ".lock"]


@pytest.mark.parametrize(
    ("change", "documents"),
    [
        ({"document": "other_text"}, ["o0", "o1"]),
        ({"limit": 1}, ["d0"]),
        ({"negatives": "list"}, ["d0", "d1"]),
    ],
)
def test_what_is_read_otherwise_is_another_copy(tmp_path, copies, change, documents):
    rows = [{"query": "q", "document": f"d{i}", "other_text": f"o{i}", "list": ["n"]} for i in range(2)]
    path = write(tmp_path / "a.jsonl", rows)
    assert open_pairs(source(path))["document"] == ["d0", "d1"]
    assert open_pairs(source(path, **change))["document"] == documents
    assert len(list(copies.glob("*.arrow"))) == 2


def test_a_changed_file_is_read_again(tmp_path, copies):
    path = write(tmp_path / "a.jsonl", ROWS)
    open_pairs(source(path))
    before = path.stat()
    write(path, [{**row, "query": row["query"].upper()} for row in ROWS])
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert open_pairs(source(path))["query"][0] == "QUERY 0"
    assert len(list(copies.glob("*.arrow"))) == 2


def test_a_refused_file_leaves_no_copy(tmp_path, copies):
    for lines in ([GOOD, {"query": "q"}], []):
        with pytest.raises(ValueError):
            open_pairs(source(write(tmp_path / "a.jsonl", lines)))
    assert not list(copies.glob("*.arrow"))


@pytest.mark.parametrize(
    ("rows", "size", "lengths"),
    [(25_000, 2**28, [20_000, 23_210]), (10**9, 230_000, [10_000, 10_000, 10_000, 10_000, 3_210])],
)
def test_copies_have_few_batches_but_bounded_ones(tmp_path, monkeypatch, rows, size, lengths):
    monkeypatch.setattr(writing, "ROWS_PER_BATCH", rows)
    monkeypatch.setattr(writing, "_BYTES_PER_BATCH", size)
    written = [{"query": f"q{i}", "document": f"d{i}"} for i in range(43_210)]
    pq.write_table(pa.Table.from_pylist(written), tmp_path / "a.parquet")
    pairs = open_pairs(source(tmp_path / "a.parquet"))
    batches = pairs.data.to_batches()
    assert [len(batch) for batch in batches] == lengths and all(batch.nbytes <= size for batch in batches)
    assert pairs.to_list() == written


def test_a_table_too_large_for_one_piece_keeps_its_pieces(tmp_path):
    column = pa.chunked_array([["a", "b"], ["c"]])
    writing.write_arrow([pa.table({"text": column})], pa.schema([("text", pa.string())]), tmp_path / "a.arrow")
    opened = datasets.Dataset.from_file(str(tmp_path / "a.arrow"))
    assert [len(batch) for batch in opened.data.to_batches()] == [2, 1] and opened["text"] == ["a", "b", "c"]


def test_progress_reaches_the_bytes_of_the_files(tmp_path, monkeypatch):
    class Bar:
        def __init__(self):
            self.steps = []

        def update(self, step):
            self.steps.append(step)

    monkeypatch.setattr(row_files, "ROWS_AT_ONCE", 1_000)
    rows = [{"query": f"a longer query {i}", "document": f"{i * i} {i}"} for i in range(20_000)]
    write_jsonl(rows, tmp_path / "a.jsonl")
    write_jsonl(rows, tmp_path / "a.jsonl.gz")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        bar = Bar()
        assert sum(len(batch.rows) for batch in row_files.read_row_batches(path, ["query"], bar)) == 20_000
        assert sum(bar.steps) == path.stat().st_size
        assert min(bar.steps) >= 0 and max(bar.steps) < path.stat().st_size / 2


class Hub:
    """A data set on the hub, which is a folder here: `datasets` reads both by the same code."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.asked = folder, []
        for name in ("load_dataset", "load_dataset_builder"):
            monkeypatch.setattr(datasets, name, self.stand_in(getattr(datasets, name)))

    def stand_in(self, real):
        def call(path, name=None, revision=None, **options):
            self.asked.append((real.__name__, path, name, revision, options.get("split")))
            return real(str(self.folder), name, **options)

        return call


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    folder.mkdir()
    rows = [{"title": f"t{i}", "body": f"b{i}", "similar": [f"n{i}"], "number": i} for i in range(2_500)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "many.parquet")
    pq.write_table(pa.Table.from_pylist([{**rows[0], "body": " "}]), folder / "blank.parquet")
    config = "configs:\n- config_name: english\n  data_files:\n"
    config += "".join(f"  - {{split: {split}, path: {split}.parquet}}\n" for split in ("many", "blank"))
    (folder / "README.md").write_text(
        f"---\n{config}dataset_info:\n- config_name: english\n  splits:\n"
        "  - {name: many, num_examples: 2500, num_bytes: 1}\n  - {name: blank, num_examples: 1, num_bytes: 1}\n---\n"
    )
    return Hub(folder, monkeypatch)


def on_hub(**fields):
    given = {"subset": "english", "split": "many", "query": "title", "document": "body", **fields}
    return source("owner/name", **given)


def test_a_hub_data_set_is_opened_where_datasets_keeps_it(hub, copies):
    pairs = open_pairs(on_hub(revision="v1", negatives="similar", limit=2))
    assert pairs.to_list() == [{"query": f"t{i}", "document": f"b{i}", "negatives": [f"n{i}"]} for i in range(2)]
    assert pairs.column_names == ["query", "document", "negatives"]
    assert hub.asked == [("load_dataset", "owner/name", "english", "v1", "many")]
    assert len(pairs.data.to_batches()) == 1 and not copies.exists() and pairs.cache_files and pairs._indices is None
    swapped = open_pairs(on_hub(query="body", document="title"))
    assert swapped[9] == {"query": "b9", "document": "t9"} and len(swapped) == 2_500


def test_columns_of_a_hub_data_set_are_checked(hub):
    for change, message in [
        ({"document": "text"}, "owner/name, split many: no column 'text'; the columns are title, body, similar, numb"),
        ({"document": "number"}, "owner/name, split many, column 'number': holds int64, not texts"),
        ({"document": "similar"}, "owner/name, split many, column 'similar': holds list<.*string>, not texts"),
        ({"negatives": "number"}, "owner/name, split many, column 'number': holds int64, not lists of texts"),
        ({"split": "none"}, "owner/name: .*none.*many"),
        ({"subset": "french"}, "owner/name: .*french"),
    ]:
        for look in (open_pairs, lambda source: preview(source, 1)):
            with pytest.raises(ValueError, match="^hub data set " + message):
                look(on_hub(**change))


def test_a_hub_data_set_is_previewed_without_downloading_it(hub):
    found = preview(on_hub(limit=3, negatives="similar", revision="v1"), 2)
    assert found == (3, [{"query": f"t{i}", "document": f"b{i}", "negatives": [f"n{i}"]} for i in range(2)])
    assert preview(on_hub(), 10) == (2_500, [{"query": f"t{i}", "document": f"b{i}"} for i in range(10)])
    assert {call[1:4] for call in hub.asked} == {("owner/name", "english", None), ("owner/name", "english", "v1")}
    with pytest.raises(ValueError, match="split blank, row 1, column 'body': the text is blank"):
        preview(on_hub(split="blank"), 3)
    assert not list(datasets.config.HF_DATASETS_CACHE.rglob("*.arrow"))
    (hub.folder / "README.md").write_text((hub.folder / "README.md").read_text().split("dataset_info")[0] + "---\n")
    assert preview(on_hub(), 1).rows is None


def test_what_is_in_the_cache_already_is_previewed_from_all_over_it(hub):
    open_pairs(on_hub())
    hub.asked.clear()
    assert preview(on_hub(), 2) == (2_500, [{"query": f"t{i}", "document": f"b{i}"} for i in (0, 1_250)])
    assert preview(on_hub(limit=4), 2) == (4, [{"query": f"t{i}", "document": f"b{i}"} for i in (0, 2)])


def test_local_files_are_previewed_from_all_over_them_and_checked(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    found = preview(source(path), 2)
    assert found.rows == 5 and [row["query"] for row in found.sample] == ["query 0", "query 2"]
    assert len(preview(source(path), 100).sample) == 5
    write(path, [*ROWS, {"query": "", "document": "d"}])
    with pytest.raises(ValueError, match="line 6, column 'query'"):
        preview(source(path), 2)


def test_what_is_neither_here_nor_on_the_hub_is_named():
    for look in (open_pairs, lambda source: preview(source, 1)):  # the tests have no network
        with pytest.raises(FileNotFoundError, match="owner/name is no local path, nor could it be read from the hub"):
            look(source("owner/name"))


def test_config_sections_are_refused_with_the_place_and_the_nearest_key():
    good = {"name": "s", "path": "p.jsonl", "query_prefix": "search_query", "document_prefix": ""}
    assert read_section(Source, good, "c.yaml") == Source(**good)
    full = {**good, "subset": "en", "revision": "v1", "weight": 2, "paper_rows": 10, "limit": 3, "negatives": "n"}
    assert read_section(Source, full, "c.yaml").weight == 2.0
    for change, message in [
        ({"documnet": "d"}, "unknown key 'documnet'; did you mean 'document'"),
        ({"query_prefix": "searchquery"}, "query_prefix: .*search_query, search_document"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"path": ""}, "path must be a non-empty string"),
        ({"subset": " "}, "subset must be a non-empty string or null"),
        ({"revision": 1}, "revision must be a non-empty string or null"),
        ({"negatives": ""}, "negatives must be a non-empty string or null"),
        ({"document": "query"}, "query, document and negatives must be different columns"),
        ({"weight": 0}, "weight must be a number above 0"),
        ({"weight": float("nan")}, "weight must be"),
        ({"weight": float("inf")}, "weight must be"),
        ({"weight": True}, "weight must be"),
        ({"paper_rows": 1.5}, "paper_rows must be a whole number"),
    ]:
        with pytest.raises(ValueError, match=r"^c.yaml, sources\[0\]: " + message):
            read_section(Source, {**good, **change}, "c.yaml, sources[0]")
    del good["document_prefix"]
    with pytest.raises(ValueError, match="'document_prefix' is missing"):
        read_section(Source, good, "c.yaml")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_jsonl(ROWS, tmp_path / "a.jsonl.gz")

    def interrupted():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(interrupted(), tmp_path / "a.jsonl.gz")
    assert list(rows_of(tmp_path / "a.jsonl.gz")) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl.gz"]


def test_gzipped_rows_give_the_same_bytes_under_any_name(tmp_path):
    write_jsonl(ROWS, tmp_path / "a.jsonl.gz")
    write_jsonl(ROWS, tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
