"""The peaks written in the configs are those that the count gives."""

import re

import pytest

from benchmarks import memory

WRITTEN = re.compile(r"estimated peak ([\d.]+) GiB on 1 GPU, ([\d.]+) on each of 8")


def written(file):
    (found,) = WRITTEN.findall(file.read_text(encoding="utf-8"))
    return dict(zip((1, 8), map(float, found), strict=True))


@pytest.mark.parametrize("file", memory.FOR_GPUS, ids=lambda file: file.stem)
def test_a_config_says_the_memory_that_its_steps_take(file):
    assert memory.count_config(file, 8)[0].peak / 2**30 == pytest.approx(written(file)[8], abs=0.06)


def test_one_gpu_needs_no_buckets():
    for file in memory.FOR_GPUS:
        assert 0 <= written(file)[8] - written(file)[1] < 1.1, file  # 0.5 GiB for buckets
    stage1 = memory.FOR_GPUS[0]
    assert memory.count_config(stage1, 1)[0].peak / 2**30 == pytest.approx(written(stage1)[1], abs=0.06)


def test_the_papers_stages_fit_a_gpu_of_80_gb():
    for file in memory.FOR_GPUS:
        assert written(file)[8] < 0.9 * 80e9 / 2**30, file


def test_the_command_prints_a_table(capsys):
    memory.main([str(memory.FOR_GPUS[-1]), "--ranks", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| finetune_own_pairs")]
    assert len(rows) == 1 and "16,384 tokens" in rows[0]
