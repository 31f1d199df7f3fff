"""What a training took: wall-clock seconds, device time, and energy where the machine tells."""

import ctypes
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"
_BETWEEN_READINGS = 10.0  # seconds: RAPL's counters start anew after some minutes at full power
_KINDS = ("gpu", "cpu")


class RaplCounters:
    """The energy of a machine's CPU packages and their memory, by Linux's powercap; other programs' share is in it.

    Args:
        root: where powercap is. Counters that may not be read, as for users other than root, do not count.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._counters: dict[Path, tuple[int, int]] = {}  # file -> where it starts anew, last reading
        self.joules = 0.0
        for zone in sorted(root.glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text().strip()
                if name.startswith("package") or name == "dram":
                    file = zone / "energy_uj"
                    self._counters[file] = int((zone / "max_energy_range_uj").read_text()), int(file.read_text())
            except (OSError, ValueError):
                continue

    @property
    def is_there(self) -> bool:
        """Whether there is a counter."""
        return bool(self._counters)

    def read(self) -> None:
        """Add to `joules` what was used since the last reading."""
        for file, (limit, before) in self._counters.items():
            now = int(file.read_text())
            self.joules += ((now - before) if now >= before else (now + limit - before)) / 1e6
            self._counters[file] = limit, now


class NvmlCounter:
    """The energy of one GPU since its driver was loaded, by NVIDIA's management library.

    Args:
        uuid: of the GPU, such as "GPU-...".
        library: the library; None: the driver's, if there is one.
    """

    def __init__(self, uuid: str, library: Any = None) -> None:
        self._handle, self._first = ctypes.c_void_p(), 0
        try:
            self._library = ctypes.CDLL(_NVML) if library is None else library
        except OSError:
            self._library = None
        found = self._library is not None and not self._library.nvmlInit_v2()
        found = found and not self._library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._handle))
        self._first = self._millijoules() if found else -1

    @property
    def is_there(self) -> bool:
        """Whether the GPU tells."""
        return self._first >= 0

    @property
    def joules(self) -> float:
        """Used since this object was made."""
        return (self._millijoules() - self._first) / 1e3

    def _millijoules(self) -> int:
        """The counter; -1: this GPU has none."""
        value = ctypes.c_ulonglong()
        failed = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(value))
        return -1 if failed else value.value


class CostMeter(TrainerCallback):
    """Counts what a run takes from `begin` on, with what it took before the checkpoint that it resumes from.

    The steps between that checkpoint and an interruption are not in it. Evaluations and saves are.

    Args:
        device: of this process.
        reads_machine: whether this process reads the counters of its machine: one on each.
    """

    def __init__(self, device: torch.device, reads_machine: bool) -> None:
        self._device, self._reads_machine = device, reads_machine
        self._gathered: dict[str, float] = {}
        self._earlier: dict[str, Any] = {}
        self._since = self._read_at = time.perf_counter()
        self._rapl: RaplCounters | None = None
        self._gpu: NvmlCounter | None = None
        self._uuid = ""

    def begin(self, earlier: Mapping[str, Any]) -> None:
        """Start from now; called on every process.

        Args:
            earlier: the record's `cost` in the checkpoint that is resumed from.
        """
        self._earlier = dict(earlier)
        self._since = self._read_at = time.perf_counter()
        self._rapl = RaplCounters() if self._reads_machine else None
        if self._device.type == "cuda":
            self._uuid = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
            self._gpu = NvmlCounter(self._uuid)
        self.gather()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """See TrainerCallback: the counters are read before they start anew."""
        if self._rapl is not None and time.perf_counter() - self._read_at > _BETWEEN_READINGS:
            self._rapl.read()
            self._read_at = time.perf_counter()

    def gather(self) -> None:
        """Sum the energy of all processes; to be called on every one, before `content`."""
        readings: dict[str, float] = {}
        if self._gpu is not None and self._gpu.is_there:
            readings[f"gpu {self._uuid}"] = self._gpu.joules  # once, though several processes may use it
        if self._rapl is not None and self._rapl.is_there:
            self._rapl.read()
            readings[f"cpu {id(self)} {time.time_ns()}"] = self._rapl.joules
        known = dict(pair for each in gather_object([readings]) for pair in each.items())
        found = {kind: [value for key, value in known.items() if key.startswith(kind)] for kind in _KINDS}
        self._gathered = {kind: sum(values) for kind, values in found.items() if values}

    def content(self, processes: int) -> dict[str, Any]:
        """The record's `cost`.

        Args:
            processes: of the run.
        """
        seconds = time.perf_counter() - self._since
        cost: dict[str, Any] = {
            "seconds": round(self._earlier.get("seconds", 0.0) + seconds, 1),
            "device_seconds": round(self._earlier.get("device_seconds", 0.0) + processes * seconds, 1),
        }
        before = self._earlier.get("joules", {})
        if self._gathered:
            # of a run whose part before the checkpoint was not measured, the energy is not known
            known = [kind for kind in self._gathered if not self._earlier or kind in before]
            joules = {kind: round(before.get(kind, 0.0) + self._gathered[kind], 1) for kind in known}
            cost |= {"joules": joules} if joules else {}
        return cost
