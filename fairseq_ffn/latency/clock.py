"""Wall time and peak memory of a device."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Optional

import torch


class Clock:
    """Wall time that waits for the device, so that no work is left out of the interval.

    Args:
        device: where the model computes; a GPU is synchronised before each reading.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def now(self) -> float:
        """Seconds since some fixed point."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class PeakMemory:
    """Highest memory use since :meth:`reset`: the process on a CPU, the tensors on a GPU."""

    _STATUS = Path("/proc/self/status")
    _RESET = Path("/proc/self/clear_refs")

    def __init__(self, device: torch.device):
        self.device = device
        self.resettable = True

    @property
    def kind(self) -> str:
        """What the number is, for the record."""
        if self.device.type == "cuda":
            return "peak memory of tensors on the GPU"
        if self.resettable:
            return "peak resident memory of the process while decoding"
        return "peak resident memory of the process since its start"

    def reset(self) -> None:
        """Forget former peaks, such as that of loading the model."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            self._RESET.write_text("5")
        except OSError:  # not Linux, or not allowed
            self.resettable = False

    def megabytes(self) -> float:
        """The peak, in 10^6 bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        peak = self._peak_of_status() if self.resettable else None
        if peak is None:
            self.resettable = False
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return peak / 1e6

    def _peak_of_status(self) -> Optional[int]:
        try:
            lines = self._STATUS.read_text().splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None
