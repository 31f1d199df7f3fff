from dataclasses import dataclass

import pytest

from recipes.shared.arguments import parse_arguments
from trainers import ContrastiveConfig


@dataclass(kw_only=True)
class Model:
    name: str
    width: int = 4
    rate: float | None = None
    shape: dict | None = None
    parts: list | None = None
    loud: bool = False


@dataclass(kw_only=True)
class Data:
    path: str = "nowhere"


@pytest.fixture
def parse(tmp_path):
    def run(yaml, *argv):
        (tmp_path / "config.yaml").write_text(yaml)
        return parse_arguments("usage", (Model, Data), ["--config", str(tmp_path / "config.yaml"), *argv])

    return run


def test_the_command_line_wins_over_the_file(parse):
    model, data = parse("name: a\nwidth: 2\nrate: 2e-4\n", "--width", "3", "--path=x", "--loud")
    assert (model.name, model.width, model.rate, data.path, model.loud) == ("a", 3, 2e-4, "x", True)


def test_texts_of_the_command_line_are_as_typed(parse):
    for text in ("query: ", "", "passage: x", "[a, b]", "a "):
        model, _ = parse("name: a\n", "--name", text)
        assert model.name == text
    assert parse("name: a\n", "--name", "'query: '")[0].name == "query: "
    with pytest.raises(SystemExit, match="name must be"):
        parse("name: a\n", "--name")


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
        parse_arguments(None, (Model,), ["--config", str(tmp_path / "none.yaml")])


def test_help_lists_the_keys():
    with pytest.raises(SystemExit, match=r"(?s)usage.*name.*width"):
        parse_arguments("usage", (Model,), ["--help"])


def test_the_trainers_settings_are_read_in_their_types(tmp_path):
    argv = ["--output_dir", str(tmp_path), "--learning_rate", "2e-4", "--warmup_steps", "0.1", "--use_cpu", "true"]
    (config,) = parse_arguments(None, (ContrastiveConfig,), [*argv, "--logging_steps", "5", "--report_to", "none"])
    assert (config.learning_rate, config.warmup_steps, config.logging_steps) == (2e-4, 0.1, 5)
    assert config.use_cpu is True
    (config,) = parse_arguments(None, (ContrastiveConfig,), [*argv, "--save_strategy", "no"])  # false, to YAML
    assert config.save_strategy == "no"
