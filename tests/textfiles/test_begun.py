import os
import subprocess
import sys

import pytest

from textfiles.begun import begin_directory, changed_settings, clear_finished
from textfiles.rows import file_stats

# Begins argv[1] with seed argv[2], says so, and keeps it in use until its standard input ends.
USER = """
import sys
from pathlib import Path
from textfiles.begun import begin_directory
try:
    begin_directory(Path(sys.argv[1]), {"seed": int(sys.argv[2])})
    print("begun", flush=True)
except ValueError as error:
    print(error, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def user(repository):
    """Start a process that begins a directory; returns it and what it said."""
    started = []

    def start(directory, seed):
        command = [sys.executable, "-c", USER, str(directory), str(seed)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository)
        started.append(process)
        return process, process.stdout.readline()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_directory_with_results_goes_on_with_the_same_settings_only(tmp_path):
    out = tmp_path / "out"
    begin_directory(out, {"seed": 1, "shape": (2, 3)})
    (out / "shard").write_text("made")
    begin_directory(out, {"shape": [2, 3], "seed": 1})
    with pytest.raises(ValueError, match=r"begun with other settings: seed was 1, is 2; more was null, is 1 \(see "):
        begin_directory(out, {"seed": 2, "shape": (2, 3), "more": 1, "none": None})


def test_a_directory_without_results_can_be_begun_anew(tmp_path):
    begin_directory(tmp_path, {"seed": 1})
    (tmp_path / ".partial-0123-shard").write_text("left by a writer that was killed")
    begin_directory(tmp_path, {"seed": 2})
    assert not (tmp_path / ".partial-0123-shard").exists()
    (tmp_path / "shard").write_text("made")
    begin_directory(tmp_path, {"seed": 2})


def test_an_interrupt_before_the_settings_were_written_refuses_nothing(tmp_path):
    (tmp_path / "out" / ".work").mkdir(parents=True)
    begin_directory(tmp_path / "out", {"seed": 1}, settings_file=tmp_path / "out" / ".work" / "settings.json")
    assert (tmp_path / "out" / ".work" / "settings.json").exists()


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="holds other files, and no settings.json"):
        begin_directory(tmp_path, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("place", ["texts", "texts/vectors", "texts/../texts/a/b"])
def test_results_do_not_go_where_they_would_be_read_as_input(tmp_path, place):
    (tmp_path / "texts").mkdir()
    with pytest.raises(ValueError, match="lies inside .*texts, which is read. Choose another output_dir"):
        begin_directory(tmp_path / place, {"seed": 1}, reads=[None, "elsewhere", tmp_path / "texts"])
    assert list((tmp_path / "texts").iterdir()) == []
    assert begin_directory(tmp_path / "texts2", {"seed": 1}, reads=[tmp_path / "texts"])
    (tmp_path / "texts" / "corpus.jsonl").touch()  # the BEIR layout, of which nothing else is read
    assert begin_directory(tmp_path / "texts" / "vectors", {"seed": 1}, reads=[tmp_path / "texts"])


def test_processes_share_a_directory_with_equal_settings_and_no_others(tmp_path, user):
    first, said = user(tmp_path, 1)
    assert said == "begun\n"
    assert user(tmp_path, 1)[1] == "begun\n"
    _, refused = user(tmp_path, 2)
    assert f"in use with other settings (process {first.pid} on " in refused and "seed was 1, is 2" in refused


def test_a_process_that_was_killed_does_not_use_a_directory(tmp_path, user):
    first, _ = user(tmp_path, 1)
    first.kill()
    first.wait()
    assert user(tmp_path, 2)[1] == "begun\n"


def test_changes_are_named_by_their_path():
    before = {"sources": [{"limit": 1, "files": ["a"]}], "rule": {"top_k": 2}, "list": [1]}
    now = {"sources": [{"limit": 5, "files": ["a", "b" * 100]}], "rule": {"top_k": 2, "seed": 0}, "list": [1]}
    limit, files, seed = changed_settings(before, now)
    assert limit == "sources[0].limit was 1, is 5" and seed == "rule.seed was null, is 0"
    assert files.startswith('sources[0].files was ["a"], is ["a", "bbb') and len(files) < 120
    assert changed_settings(now, now) == []


def test_a_file_that_was_changed_is_named_and_not_its_time(tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    (tmp_path / "b.jsonl").write_text("2")
    before = {"files": file_stats(sorted(tmp_path.iterdir()))}
    os.utime(tmp_path / "b.jsonl", ns=(0, 5))
    now = {"files": file_stats(sorted(tmp_path.iterdir()))}
    assert changed_settings(before, now) == ["files[1]: the file b.jsonl was changed or written anew"]
    (tmp_path / "b.jsonl").rename(tmp_path / "c.jsonl")
    renamed = changed_settings(now, {"files": file_stats(sorted(tmp_path.iterdir()))})
    assert renamed == ['files[1][0] was "b.jsonl", is "c.jsonl"']


def test_nothing_but_the_settings_is_left_when_the_last_user_ends(tmp_path, user):
    users = [user(tmp_path, 1)[0] for _ in range(2)]
    for process in users:
        assert (tmp_path / ".in-use").exists()
        process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_finished_directory_is_cleared_only_after_its_last_user(tmp_path, user):
    out, work = tmp_path / "out", tmp_path / "out" / ".work"
    process, said = user(out, 1)
    assert said == "begun\n"
    (out / "result").write_text("made")
    work.mkdir()
    clear_finished(out, work)
    assert work.is_dir(), "the process may be finishing"
    process.kill()
    process.wait()
    clear_finished(out, work)
    assert not work.exists() and (out / "result").read_text() == "made"


def test_the_mark_of_a_user_that_was_killed_goes_from_a_finished_directory(tmp_path, user, repository):
    process, _ = user(tmp_path, 1)
    (tmp_path / "result").write_text("made")
    process.kill()
    process.wait()
    assert (tmp_path / ".in-use").exists()
    program = "import sys\nfrom pathlib import Path\nfrom textfiles.begun import clear_finished\n"
    program += "clear_finished(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=repository)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result", "settings.json"]
