import enum
import random
from dataclasses import dataclass
from typing import Literal

import pytest

from recipes.shared.arguments import parse_arguments
from trainers import ContrastiveConfig


class Strategy(enum.StrEnum):
    NO = "no"


@dataclass(kw_only=True)
class Model:
    name: str
    width: int = 4
    rate: float | None = None
    shape: dict | None = None
    parts: list | None = None
    loud: bool = False
    nickname: str | None = None
    mode: Literal["on", "off"] = "off"
    when: Strategy | str = "no"
    report: None | str | list | dict = None
    flag: str | bool = False


@dataclass(kw_only=True)
class Data:
    path: str = "nowhere"
    place: str = ""


@pytest.fixture
def parse(tmp_path):
    def run(yaml, *argv):
        (tmp_path / "config.yaml").write_text(yaml)
        return parse_arguments((Model, Data), ["--config", str(tmp_path / "config.yaml"), *argv])

    return run


def test_the_command_line_wins_over_the_file(parse):
    model, data = parse("name: a\nwidth: 2\nrate: 2e-4\n", "--width", "3", "--path=x", "--loud")
    assert (model.name, model.width, model.rate, data.path, model.loud) == ("a", 3, 2e-4, "x", True)


TEXTS = [
    "query: ", "", "a ", "'query: '", "run #3", "007",
    "1_000", "0x1F", "1e3", "12:30:45", "on", "no", "true", "~", "2026-11-30",
    "[a, b]", "{a: 1}", "{a", "!!python/none", "*x", "- a", "null ", "Null", "é", "\t", "%",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["name", "nickname", "mode", "when", "place"])
def test_a_text_of_the_command_line_arrives_as_typed(parse, key, text):
    model, data = parse("name: a\n", f"--{key}", text)
    assert getattr(data if key == "place" else model, key) == text
    model, data = parse("name: a\n", f"--{key}={text}")
    assert getattr(data if key == "place" else model, key) == text


def test_random_texts_arrive_as_typed(parse):
    letters = random.Random(0)
    for _ in range(300):
        text = "".join(letters.choices("aZ0 .:#-{}[]'\"\\|>&*!%@`,?~\nπ", k=letters.randint(1, 9)))
        assert parse("name: a\n", f"--nickname={text}")[0].nickname == text


def test_the_word_null_leaves_out_what_may_be_left_out_and_is_text_elsewhere(parse):
    assert parse("name: a\nnickname: b\n", "--nickname", "null")[0].nickname is None
    assert parse("name: a\n", "--name", "null")[0].name == "null"


def test_where_text_is_one_of_several_types_yaml_chooses(parse):
    for typed, value in ("[a, b]", ["a", "b"]), ("{a: 1}", {"a": 1}), ("007", "007"), ("on", "on"), ("null", None):
        assert parse("name: a\n", "--report", typed)[0].report == value
    assert parse("name: a\n", "--flag", "true")[0].flag is True
    assert parse("name: a\n", "--flag", "full")[0].flag == "full"


def test_a_text_key_needs_its_text(parse):
    with pytest.raises(SystemExit, match="name must be str"):
        parse("name: a\n", "--name")
    with pytest.raises(SystemExit, match="name must be str"):
        parse("name: a\n", "--name", "--loud")


@pytest.mark.parametrize("text", ["007", "12:30:45", "2026-11-30", "1.10", "on"])
def test_what_yaml_does_not_read_as_text_must_be_quoted_in_a_file(parse, text):
    with pytest.raises(SystemExit, match=r"config\.yaml: name must be str.*in quotes"):
        parse(f"name: {text}\n")
    assert parse(f"name: '{text}'\n")[0].name == text


def test_directories_may_be_below_the_home_directory(tmp_path, monkeypatch):
    @dataclass(kw_only=True)
    class Places:
        output_dir: str
        tokenizer: str
        title: str = ""

    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "config.yaml").write_text("output_dir: ~/out\ntitle: ~/a\n")
    argv = ["--config", str(tmp_path / "config.yaml"), "--tokenizer=~/words"]
    (places,) = parse_arguments((Places,), argv)
    assert (places.output_dir, places.tokenizer, places.title) == ("/home/me/out", "/home/me/words", "~/a")


def test_a_later_config_wins_over_an_earlier_one(parse, tmp_path):
    (tmp_path / "later.yaml").write_text("width: 9\n")
    model, _ = parse("name: a\nwidth: 2\nrate: 1\n", "--config", str(tmp_path / "later.yaml"))
    assert (model.width, model.rate) == (9, 1.0) and isinstance(model.rate, float)


def test_values_are_yaml_and_one_entry_of_a_mapping_can_be_set(parse):
    model, _ = parse(
        "name: a\nrate: 1.0\nshape: {x: 1, y: 2}\n", "--shape.y", "5", "--rate", "null", "--parts", "[1, 2]"
    )
    assert (model.shape, model.rate, model.parts) == ({"x": 1, "y": 5}, None, [1, 2])


@pytest.mark.parametrize(
    ("yaml", "argv", "said"),
    [
        ("name: a\nwidht: 3\n", [], ["config.yaml", "'widht'", "'width'"]),
        ("name: a\n", ["--widht", "3"], ["--widht", "'width'"]),
        ("width: 3\n", [], ["'name'", "missing"]),
        ("name: a\nwidth: wide\n", [], ["config.yaml: width", "int", "'wide'"]),
        ("name: a\nwidth: 2.5\n", [], ["width", "2.5"]),
        ("name: a\nwidth: true\n", [], ["width", "True"]),
        ("name: a\nloud: perhaps\n", [], ["loud", "bool"]),
        ("name: a\nparts: 3\n", [], ["parts", "list"]),
        ("- a\n", [], ["mapping"]),
        ("name: a\nrate: .nan\n", [], ["config.yaml: rate", "not nan"]),
        ("name: a\n", ["--rate", "nan"], ["--rate: rate", "not nan"]),
        ("name: a\nwidth: 2\nname: b\n", [], ["config.yaml", "'name' is used twice", "line 3"]),
        ("name: a\nshape: {x: 1, x: 2}\n", [], ["config.yaml", "'x' is used twice"]),
        ("name: " + "[" * 9_999, [], ["config.yaml", "not valid YAML"]),
        ("name: a\n", ["stray"], ["'stray'"]),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_it(parse, yaml, argv, said):
    with pytest.raises(SystemExit) as error:
        parse(yaml, *argv)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in said)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"none\.yaml"):
        parse_arguments((Model,), ["--config", str(tmp_path / "none.yaml")])


def test_the_trainers_settings_are_read_in_their_types(tmp_path):
    argv = ["--output_dir", str(tmp_path), "--learning_rate", "2e-4", "--warmup_steps", "0.1", "--use_cpu", "true"]
    (config,) = parse_arguments((ContrastiveConfig,), [*argv, "--logging_steps", "5", "--report_to", "none"])
    assert (config.learning_rate, config.warmup_steps, config.logging_steps) == (2e-4, 0.1, 5)
    assert config.use_cpu is True
    (config,) = parse_arguments((ContrastiveConfig,), [*argv, "--save_strategy", "no"])  # false, to YAML
    assert config.save_strategy == "no"
