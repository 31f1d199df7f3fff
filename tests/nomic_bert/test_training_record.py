import pytest

from nomic_bert.training_record import TRAINING_FILE, read_training, write_training


def test_stages_are_read_as_written_and_none_where_there_are_none(tmp_path):
    assert read_training(tmp_path) == []
    assert read_training("nomic-ai/nomic-embed-text-v1.5") == []
    write_training(tmp_path, [{"stage": "one", "steps": 3}, {"stage": "two"}])
    assert read_training(tmp_path) == [{"stage": "one", "steps": 3}, {"stage": "two"}]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"stages": 3}', '{"stages": ["one"]}'])
def test_what_is_no_record_is_named(tmp_path, content):
    (tmp_path / TRAINING_FILE).write_text(content)
    with pytest.raises(ValueError, match=TRAINING_FILE):
        read_training(tmp_path)
