import json

import pytest

from trainers import latest_checkpoint


def write(directory, step, state=None, rng=True):
    checkpoint = directory / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    if rng:
        (checkpoint / "rng_state.pth").write_bytes(b"")
    return checkpoint


def test_the_newest_by_number_not_by_name(tmp_path):
    write(tmp_path, 9)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert latest_checkpoint(str(tmp_path)) != write(tmp_path, 10) == latest_checkpoint(tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "checkpoint-final").mkdir()
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("state", "rng", "reason"),
    [
        ('{"global_step": 2', True, "cut short"),
        ('{"global_step": 1}', True, "says step 1"),
        (None, False, "save_only_model"),
    ],
)
def test_an_incomplete_one_is_passed_over_and_named(tmp_path, state, rng, reason):
    write(tmp_path, 1)
    write(tmp_path, 2, state, rng)
    with pytest.warns(UserWarning, match=f"checkpoint-2 cannot be resumed from.*{reason}"):
        assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
