import json

import pytest

from nomic_bert.files import atomic_file, write_json


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "result.json"
    write_json(path, {"score": 0.5, "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"score": 0.5, "name": "é"}
    with pytest.raises(RuntimeError), atomic_file(path) as partial:
        partial.write_text("half")
        assert json.loads(path.read_text(encoding="utf-8")) == {"score": 0.5, "name": "é"}
        raise RuntimeError
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
    assert json.loads(path.read_text(encoding="utf-8"))["score"] == 0.5
