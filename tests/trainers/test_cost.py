"""What a run took: read from counters as Linux and NVIDIA's library have them, and carried over a resumption."""

import ctypes

import pytest
import torch

from nomic_bert.training_record import read_training
from tests.trainers.toys import StopAt, mlm_trainer
from trainers import cost
from trainers.cost import CostMeter, NvmlCounter, RaplCounters


def zone(root, name, label, energy, limit=1_000_000):
    directory = root / name
    directory.mkdir(parents=True)
    for file, value in (("name", label), ("energy_uj", energy), ("max_energy_range_uj", limit)):
        (directory / file).write_text(f"{value}\n")
    return directory / "energy_uj"


def test_packages_and_memory_count_once_and_past_the_end_of_the_counter(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)  # part of the package
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1)  # the package again
    counters = RaplCounters(tmp_path)
    package.write_text("950000")
    memory.write_text("20000")
    counters.read()
    assert counters.joules == pytest.approx(0.07)
    package.write_text("50000")  # it began anew at 1,000,000
    counters.read()
    assert counters.joules == pytest.approx(0.17)
    assert not RaplCounters(tmp_path / "nowhere").is_there


class Library:
    """NVML with one GPU."""

    def __init__(self, energy, failing=()):
        self.energy, self.failing = energy, failing
        self.asked = []

    def nvmlInit_v2(self):
        return int("init" in self.failing)

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        self.asked.append(uuid)
        return int("handle" in self.failing)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):
        ctypes.cast(value, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.energy
        return int("energy" in self.failing)


def test_a_gpus_counter_is_read_from_the_start_of_the_run():
    library = Library(5_000)
    counter = NvmlCounter("GPU-1", library)
    library.energy = 12_500
    assert counter.is_there and counter.joules == 7.5 and library.asked == [b"GPU-1"]
    for failing in ("init", "handle", "energy"):
        assert not NvmlCounter("GPU-1", Library(0, [failing])).is_there


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    file = zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 0, limit=10**12)
    root = tmp_path / "powercap"
    monkeypatch.setattr(cost, "RaplCounters", lambda: RaplCounters(root))
    return file


def test_a_resumed_run_adds_to_what_it_took_before(powercap):
    meter = CostMeter(torch.device("cpu"), reads_machine=True)
    meter.begin({"seconds": 100.0, "device_seconds": 400.0, "joules": {"cpu": 7.0}})
    powercap.write_text(str(3_000_000))
    meter.gather()
    found = meter.content(4)
    assert 100 <= found["seconds"] < 130 and found["joules"] == {"cpu": 10.0}
    assert found["device_seconds"] == pytest.approx(400 + 4 * (found["seconds"] - 100), abs=1)
    meter.begin({"seconds": 100.0, "device_seconds": 400.0})  # where the energy was not measured before
    powercap.write_text(str(4_000_000))
    meter.gather()
    assert "joules" not in meter.content(4)


def test_a_counter_that_begins_anew_between_checkpoints_is_read_before(powercap, monkeypatch):
    meter = CostMeter(torch.device("cpu"), reads_machine=True)
    meter.begin({})
    monkeypatch.setattr(cost, "_BETWEEN_READINGS", -1.0)
    for energy in (6 * 10**11, 2 * 10**11):  # past the end in between
        powercap.write_text(str(energy))
        meter.on_step_end()
    meter.gather()
    assert meter.content(1)["joules"] == {"cpu": pytest.approx(1.2e6)}


def test_the_record_of_a_trained_and_of_a_resumed_model_has_it(tmp_path, powercap):
    class Burn(StopAt):
        def on_step_end(self, *arguments, **more):
            powercap.write_text(str(int(powercap.read_text()) + 1_000_000))
            super().on_step_end(*arguments, **more)

    killed = mlm_trainer(tmp_path / "run", max_steps=5, save_strategy="steps", save_steps=2)
    killed.add_callback(Burn(3))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    (before,) = read_training(tmp_path / "run" / "checkpoint-2")
    assert before["cost"]["joules"] == {"cpu": 2.0} and before["cost"]["seconds"] > 0
    resumed = mlm_trainer(tmp_path / "run", max_steps=5, save_strategy="steps", save_steps=2)
    resumed.add_callback(Burn(99))
    resumed.train(resume_from_checkpoint=True)
    (stage,) = resumed.training_record()
    assert stage["cost"]["joules"] == {"cpu": 5.0}  # steps 3 to 5 after the checkpoint, not the lost one
    assert stage["cost"]["seconds"] >= before["cost"]["seconds"]
    assert stage["cost"]["device_seconds"] == pytest.approx(stage["cost"]["seconds"], abs=0.2)
