import json

import pytest

from trainers import latest_checkpoint
from trainers.checkpoints import FILES_FILE, remove_cut_checkpoints, remove_older_checkpoints


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


def test_one_that_was_damaged_after_it_was_complete_is_not_passed_over(tmp_path):
    """Else a run would start from scratch, and remove what a user could still save."""
    write(tmp_path, 1)
    (write(tmp_path, 2, state="") / FILES_FILE).write_text("{}")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    remove_cut_checkpoints(tmp_path)
    assert steps(tmp_path) == [1, 2]


def steps(directory):
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in directory.glob("checkpoint-*"))


def test_what_an_interrupted_save_or_removal_left_is_removed(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, state='{"global_step": 2')
    (write(tmp_path, 3) / "trainer_state.json").unlink()
    write(tmp_path, 4, rng=False)  # the model alone, on purpose
    remove_cut_checkpoints(tmp_path)
    assert steps(tmp_path) == [1, 4]


def test_a_link_to_an_older_checkpoint_is_removed_with_what_it_leads_to(tmp_path):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "run").mkdir()
    old = write(tmp_path / "large_disk", 1)
    (tmp_path / "run" / "checkpoint-1").symlink_to(old)
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-1"
    remove_older_checkpoints(write(tmp_path / "run", 2), 1, None)
    assert steps(tmp_path / "run") == [2] and not old.exists()


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [(None, None, [1, 2, 3, 5, 9]), (1, None, [5]), (2, None, [3, 5]), (1, 1, [1, 5]), (3, 1, [1, 3, 5])],
)
def test_older_checkpoints_go_but_never_the_new_or_the_best_one(tmp_path, limit, best, kept):
    """Step 9 is of a run that was resumed from an earlier step: it goes before the older ones."""
    for step in (1, 2, 3, 9, 5):
        write(tmp_path, step)
    path = None if best is None else str(tmp_path / f"checkpoint-{best}")
    remove_older_checkpoints(tmp_path / "checkpoint-5", limit, path)
    assert steps(tmp_path) == kept
