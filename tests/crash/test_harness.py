"""The harness finds a script that loses or spoils its output, and passes one that does not."""

import textwrap

import pytest

from tests.crash.damage import assert_notices_damage
from tests.crash.harness import Case, Trials, assert_survives, contents_of, spread

SOUND = """
    import os, pathlib
    parts = pathlib.Path("parts")
    parts.mkdir(exist_ok=True)
    for number in range(3):
        if not (parts / str(number)).exists():
            pathlib.Path("partial").write_text(f"part {number}")
            os.replace("partial", parts / str(number))
"""
TAKES_A_HALF_FILE_FOR_A_WHOLE_ONE = """
    import pathlib
    for number in range(3):
        path = pathlib.Path(str(number))
        if not path.exists():
            with open(path, "w") as file:
                pathlib.Path("progress").write_text("writing")
                file.write(f"part {number}")
"""
REFUSES_ITSELF = """
    import pathlib
    pathlib.Path("out").mkdir()
    pathlib.Path("out/settings").write_text("mine")
"""
LEAVES_RUBBISH = """
    import os, pathlib, uuid
    scratch = pathlib.Path(str(uuid.uuid4()))
    scratch.write_text("whole")
    os.replace(scratch, "result")
"""


NEVER_LOOKS_AGAIN = """
    import os, pathlib
    for number in range(3):
        if not pathlib.Path(f"{number}.json").exists():
            pathlib.Path("partial").write_text(f"part {number}")
            os.replace("partial", f"{number}.json")
"""
LOOKS_AGAIN = """
    import os, pathlib, sys
    for number in range(3):
        path = pathlib.Path(f"{number}.json")
        if path.exists() and path.read_text() != f"part {number}":
            sys.exit(f"{path} is damaged. Remove it.")
        pathlib.Path("partial").write_text(f"part {number}")
        os.replace("partial", path)
"""
DIES_OF_DAMAGE = LOOKS_AGAIN.replace("sys.exit", "raise ValueError").replace("{path} is damaged", "damaged")


def case(tmp_path, script, **settings):
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Case("toy", str(tmp_path / "script.py"), (), lambda directory: None, is_heavy=False, **settings), scratch


def test_a_sound_script_survives_every_kill(tmp_path):
    assert_survives(*case(tmp_path, SOUND), kills=0, delays=1)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (TAKES_A_HALF_FILE_FOR_A_WHOLE_ONE, "other bytes: 0"),
        (REFUSES_ITSELF, "fails with 1 when it is started again"),
        (LEAVES_RUBBISH, "left behind"),
    ],
)
def test_an_unsound_one_is_found(tmp_path, script, found):
    with pytest.raises(AssertionError, match=found):
        assert_survives(*case(tmp_path, script), kills=0, delays=0)


def test_what_may_differ_must_still_be_there(tmp_path):
    script = "import os, pathlib\npathlib.Path('log').write_text(str(os.getpid()))\npathlib.Path('end').touch()\n"
    assert_survives(*case(tmp_path, script, may_differ={"log": "holds the process"}), kills=0, delays=0)


@pytest.mark.parametrize("script", [SOUND, TAKES_A_HALF_FILE_FOR_A_WHOLE_ONE])
def test_a_copy_of_the_directory_is_what_a_kill_leaves(tmp_path, script):
    trials = Trials(*case(tmp_path, script))
    states = trials.states(spread(trials.events, 0))
    assert len(states) == trials.events
    for event, state in states.items():
        trials.reset()
        trials.run(kill_at=event)
        assert contents_of(trials.work) == contents_of(state)


def test_a_script_that_looks_at_its_files_notices_damage(tmp_path):
    assert_notices_damage(*case(tmp_path, LOOKS_AGAIN), interruptions=1)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (NEVER_LOOKS_AGAIN, "1.json with one bit changed when finished: other bytes: 1.json"),
        (DIES_OF_DAMAGE, "traceback"),
    ],
)
def test_one_that_does_not_or_does_not_say_is_found(tmp_path, script, found):
    with pytest.raises(AssertionError, match=found):
        assert_notices_damage(*case(tmp_path, script), interruptions=1)
