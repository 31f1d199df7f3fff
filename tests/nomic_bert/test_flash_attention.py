"""When FlashAttention 3 is switched on, with a GPU and a kernel that are acted; on a Hopper GPU with the real ones."""

from importlib.util import find_spec

import pytest
import torch
from torch.nn import attention

from nomic_bert import flash_attention
from nomic_bert.flash_attention import use_flash_attention_3

CUDA = torch.device("cuda")


@pytest.fixture
def hopper(monkeypatch):
    """A Hopper GPU, whose tensors are on the CPU; the list of what was switched on and back."""
    use_flash_attention_3.cache_clear()
    switched = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(flash_attention, "find_spec", lambda name: name)
    monkeypatch.setattr(attention, "activate_flash_attention_impl", switched.append)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", lambda: switched.append("FA2"))
    compare = flash_attention._largest_error
    monkeypatch.setattr(flash_attention, "_largest_error", lambda device: compare(torch.device("cpu")))
    monkeypatch.setattr(flash_attention, "_attend_packed", flash_attention._attend_apart)
    yield switched
    use_flash_attention_3.cache_clear()


def test_it_is_switched_on_once_where_it_attends_as_it_should(hopper):
    assert use_flash_attention_3(CUDA) and use_flash_attention_3(CUDA)
    assert hopper == ["FA3"]


def test_one_that_attends_across_texts_is_not_used(hopper, monkeypatch, caplog):
    across = torch.nn.functional.scaled_dot_product_attention
    whole = lambda *states: across(*(state.transpose(0, 1) for state in states)).transpose(0, 1)  # noqa: E731
    monkeypatch.setattr(flash_attention, "_attend_packed", whole)
    assert not use_flash_attention_3(CUDA)
    assert hopper == ["FA3", "FA2"]
    assert "installed and not used: it is off by" in caplog.text


def test_one_that_fails_is_not_used(hopper, monkeypatch, caplog):
    def fail(*states):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(flash_attention, "_attend_packed", fail)
    assert not use_flash_attention_3(CUDA)
    assert hopper[-1] == "FA2" and "no kernel image is available" in caplog.text


@pytest.mark.parametrize("capability", [(8, 0), (10, 0)])
def test_other_gpus_keep_version_2(hopper, monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert not use_flash_attention_3(CUDA) and not use_flash_attention_3(torch.device("cpu"))
    assert hopper == []


def test_without_the_package_nothing_is_tried(hopper, monkeypatch):
    monkeypatch.setattr(flash_attention, "find_spec", lambda name: None)
    assert not use_flash_attention_3(CUDA)
    assert hopper == []


@pytest.mark.gpu
def test_on_a_hopper_gpu_with_the_package_it_is_used():
    if torch.cuda.get_device_capability() != (9, 0) or find_spec("flash_attn_interface") is None:
        pytest.skip("needs a Hopper GPU and flash_attn_interface")
    assert use_flash_attention_3(CUDA)
