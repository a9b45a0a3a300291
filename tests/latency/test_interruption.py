from __future__ import annotations

import os
import signal
import threading

import pytest

from fairseq_ffn.latency.comparison import Candidate, Interleaved
from fairseq_ffn.latency.interruption import unwind_on_sigterm
from latency.fakes import FakeClock, FakeModel


@pytest.fixture(autouse=True)
def handler():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def terminated_in(batch):
    """A comparison that gets SIGTERM while it decodes ``batch`` in the second round."""
    clock, lines = FakeClock(), []
    model = FakeModel(clock, [1.0] * 3)

    def decode(number):
        if number == batch and model.calls.count(number) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return model.decode(number)

    compared = Interleaved([Candidate("a", decode)], range(3), 2)
    with pytest.raises(SystemExit) as ended:
        compared.run(clock, warmup=0, progress=lines.append)
    return lines, ended.value.code


def test_a_terminated_comparison_says_how_far_it_came():
    undo = unwind_on_sigterm()
    lines, status = terminated_in(batch=1)
    assert lines == ["latency: interrupted in round 2 of 2, batch 2 of 3"] and status == 143
    undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_handler_of_somebody_else_stays():
    def other(number, frame):
        raise AssertionError

    signal.signal(signal.SIGTERM, other)
    undo = unwind_on_sigterm()
    assert signal.getsignal(signal.SIGTERM) is other
    undo()
    assert signal.getsignal(signal.SIGTERM) is other


def test_another_thread_can_not_set_a_handler():
    undone = []
    thread = threading.Thread(target=lambda: undone.append(unwind_on_sigterm()))
    thread.start()
    thread.join()
    undone[0]()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
