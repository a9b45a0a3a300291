"""What machine and software a figure is from; no names of hosts or people."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Dict, Optional

import torch

_PACKAGES = ("torch", "numpy", "fairseq-fixed", "fairseq", "fairseq-ffn")
#: settings of the environment that change speed
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_AFFINITY", "GLIBC_TUNABLES", "LD_PRELOAD")


def versions() -> Dict[str, Optional[str]]:
    """Versions of what computes."""
    record: Dict[str, Optional[str]] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            record[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    record["cuda"] = torch.version.cuda
    return record


def machine(device: torch.device) -> Dict[str, object]:
    """The hardware, and settings of the environment that bear on speed."""
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    record: Dict[str, object] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": cores,
        "cpu_kernels": torch.backends.cpu.get_cpu_capability(),
        "memory_mb": _memory_megabytes(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    if device.type == "cuda":
        record["gpu"] = device_name(device)
    return record


def device_name(device: torch.device) -> str:
    """``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor()
    return platform.processor()


def _memory_megabytes() -> Optional[int]:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6
    except (ValueError, OSError, AttributeError):
        return None
