import pytest

from textfiles.shards import ShardFiles, changed_files, deal, read_receipt, write_receipt


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


@pytest.fixture
def finished(tmp_path):
    """A shard with its receipt."""
    shard, receipt = tmp_path / "kept" / "shard.jsonl", tmp_path / "counts" / "shard.json"
    shard.parent.mkdir()
    shard.write_text('{"query": "q"}\n')
    assert read_receipt(receipt) is None
    write_receipt(receipt, [shard], {"rows": 1, "mean": 0.1, "none": None})
    return shard, receipt


def test_a_shard_counts_as_finished_while_its_files_are_as_they_were_written(finished):
    shard, receipt = finished
    assert read_receipt(receipt) == {"rows": 1, "mean": 0.1, "none": None}
    whole = shard.read_text()
    for damaged in ("", whole[:5], whole.replace("q", "p", 1)):
        shard.write_text(damaged)
        assert read_receipt(receipt) is None and changed_files(receipt, "Remove it.") == [
            receipt.parent / "../kept/shard.jsonl"
        ]
    shard.write_text(whole)
    assert read_receipt(receipt) is not None and changed_files(receipt, "Remove it.") == []
    shard.unlink()
    assert read_receipt(receipt) is None and len(changed_files(receipt, "Remove it.")) == 1


def test_a_damaged_receipt_is_named(finished):
    _, receipt = finished
    for damaged in ("", "[]", "{}", receipt.read_text().replace('"rows": 1', '"rows": 2')):
        receipt.write_text(damaged)
        with pytest.raises(ValueError, match=r"shard\.json is not .* Remove it to make the shard again"):
            read_receipt(receipt)
