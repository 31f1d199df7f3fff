import pytest

from curation.shards import ShardFiles, claim, deal


def test_jobs_are_dealt_to_one_rank_each():
    jobs = list(range(11))
    shares = [deal(jobs, rank, 3) for rank in range(3)]
    assert sorted(sum(shares, [])) == jobs and {len(share) for share in shares} == {3, 4}


def test_files_are_named_by_shard_and_count(tmp_path):
    files = ShardFiles(tmp_path, "pairs", 12, ".jsonl.gz")
    assert files.path(3).name == "pairs-00003-of-00012.jsonl.gz"
    assert [path.name for path in files.paths()] == sorted(path.name for path in files.paths()) and len(
        files.paths()
    ) == 12


def test_a_directory_is_claimed_once_and_again_with_the_same_settings(tmp_path):
    claim(tmp_path / "out", {"seed": 1, "shape": (2, 3)})
    (tmp_path / "out" / "shard").write_text("made")
    claim(tmp_path / "out", {"shape": [2, 3], "seed": 1})
    with pytest.raises(ValueError, match=r"begun with other settings \(more, seed changed\)"):
        claim(tmp_path / "out", {"seed": 2, "shape": (2, 3), "more": None, "none": None} | {"more": 1})
    (tmp_path / "other").mkdir()
    claim(tmp_path / "other", {"seed": 1}, tmp_path / "other" / ".work" / "s.json")
    assert (tmp_path / "other" / ".work" / "s.json").exists()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes").write_text("mine")
    with pytest.raises(ValueError, match="foreign exists and does not say what it was made from"):
        claim(tmp_path / "foreign", {"seed": 1})
