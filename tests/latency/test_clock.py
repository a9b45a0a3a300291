from __future__ import annotations

import mmap
import resource
import time

import pytest
import torch

from fairseq_ffn.latency import clock as clock_module
from fairseq_ffn.latency.clock import Clock, PeakMemory

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


def test_the_clock_waits_for_a_gpu_before_it_reads(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(device))
    monkeypatch.setattr(
        clock_module.time, "perf_counter", lambda: events.append("read") or float(len(events))
    )
    clock = Clock(GPU)
    assert (clock.now(), clock.now()) == (2.0, 4.0)
    assert events == [GPU, "read", GPU, "read"]
    events.clear()
    assert Clock(CPU).now() == 1.0 and events == ["read"]


def test_the_clock_counts_seconds():
    clock = Clock(CPU)
    begin = clock.now()
    time.sleep(0.05)
    assert clock.now() - begin >= 0.05


def status(folder, text):
    path = folder / "status"
    path.write_text(text)
    return path


def test_the_peak_of_linux_is_in_units_of_1024_bytes(monkeypatch, tmp_path):
    text = "VmPeak:\t9999 kB\nVmHWM:\t    2500 kB\nVmRSS:\t 7 kB\n"
    monkeypatch.setattr(PeakMemory, "_STATUS", status(tmp_path, text))
    memory = PeakMemory(CPU)
    assert memory.megabytes() == 2.56
    assert memory.kind == "peak resident memory of the process while decoding"


def test_a_reset_forgets_former_peaks(monkeypatch, tmp_path):
    reset = tmp_path / "clear_refs"
    monkeypatch.setattr(PeakMemory, "_RESET", reset)
    PeakMemory(CPU).reset()
    assert reset.read_text() == "5"  # proc(5): resets VmHWM


def test_on_this_machine_a_reset_works(tmp_path):
    memory = PeakMemory(CPU)
    memory.reset()
    if not memory.resettable or memory._peak_of_status() is None:
        pytest.skip("the system doesn't let a process reset its peak")
    with mmap.mmap(-1, 200_000_000) as big:  # the allocator might keep it
        big.write(bytes(200_000_000))
        with_it = memory.megabytes()
    memory.reset()
    assert memory.megabytes() < with_it - 150


@pytest.mark.parametrize("fault", ["no reset", "no peak", "no file"])
def test_without_them_the_peak_since_the_start_counts_and_is_called_so(
    monkeypatch, tmp_path, fault
):
    monkeypatch.setattr(
        PeakMemory, "_RESET", tmp_path / ("no/file" if fault == "no reset" else "x")
    )
    path = status(tmp_path, "VmRSS:\t 7 kB\n" if fault == "no peak" else "VmHWM:\t 7 kB\n")
    monkeypatch.setattr(PeakMemory, "_STATUS", tmp_path / "absent" if fault == "no file" else path)
    monkeypatch.setattr(clock_module.sys, "platform", "linux")
    memory = PeakMemory(CPU)
    memory.reset()
    least = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    assert least <= memory.megabytes() < least + 100
    assert memory.kind == "peak resident memory of the process since its start"


def test_a_mac_counts_in_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr(PeakMemory, "_RESET", tmp_path / "no/file")
    monkeypatch.setattr(clock_module.sys, "platform", "darwin")
    memory = PeakMemory(CPU)
    memory.reset()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    assert memory.megabytes() == pytest.approx(peak, rel=0.1)


def test_memory_of_a_gpu_is_that_of_its_tensors(monkeypatch):
    resets = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000)
    memory = PeakMemory(GPU)
    memory.reset()
    assert resets == [GPU] and memory.megabytes() == 3.0
    assert memory.kind == "peak memory of tensors on the GPU"
