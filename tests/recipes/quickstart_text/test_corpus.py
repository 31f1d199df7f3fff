import importlib.metadata

import pytest

from recipes.quickstart_text.corpus import CorpusSettings, build_corpus


def settings(packages, more_packages, unseen_packages):
    return CorpusSettings(
        packages=packages,
        more_packages=more_packages,
        unseen_packages=unseen_packages,
        held_out_pairs=1,
        weak_pairs=1,
        stage3_share=0.5,
        smallest_source=1,
        vocab_size=100,
    )


@pytest.mark.parametrize("lists", [(["a"], ["b"], ["b"]), (["a"], ["a"], ["b"]), (["b", "a", "a"], [], ["c"])])
def test_a_package_is_named_once(lists):
    with pytest.raises(ValueError, match=r"^[ab]: named twice in packages, more_packages and unseen_packages"):
        settings(*lists)


def test_a_package_without_text_is_told_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [importlib.metadata.distribution("pyyaml")])
    with pytest.raises(ValueError, match="installed for nowhere; .*`make quickstart` installs"):
        build_corpus(settings(["yaml"], ["nowhere"], []), tmp_path / "corpus")
    with pytest.raises(ValueError, match="^pyyaml: no documentation is found; write the import name"):
        build_corpus(settings(["pyyaml"], [], []), tmp_path / "corpus")
    assert not any(tmp_path.iterdir())
