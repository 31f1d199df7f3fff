import pytest

from textfiles.shards import ShardFiles, deal, read_receipt, write_receipt


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


def test_a_shard_counts_as_finished_while_its_files_have_their_sizes(tmp_path):
    (tmp_path / "kept").mkdir()
    shard = tmp_path / "kept" / "shard.jsonl"
    shard.write_text('{"query": "q"}\n')
    receipt = tmp_path / "counts" / "shard.json"
    assert read_receipt(receipt) is None
    write_receipt(receipt, [shard], {"rows": 1})
    assert read_receipt(receipt) == {"rows": 1}
    shard.write_text("")
    assert read_receipt(receipt) is None
    shard.unlink()
    assert read_receipt(receipt) is None
    for damaged in ("", "[]", "{}"):
        receipt.write_text(damaged)
        with pytest.raises(ValueError, match=r"shard\.json is not .* Remove it to make the shard again"):
            read_receipt(receipt)
