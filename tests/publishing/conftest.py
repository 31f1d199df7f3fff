from collections.abc import Iterator

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.publishing.fake_hub import FakeHub, running


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub in this process, to which its user is signed in."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its server is the hub's own
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        yield hub
