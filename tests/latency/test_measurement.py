from __future__ import annotations

import json
from functools import partial

import pytest

from fairseq_ffn.errors import UserError
from fairseq_ffn.files import write_json
from fairseq_ffn.latency import measurement as measurement_module
from fairseq_ffn.latency.measurement import Measurement
from fairseq_ffn.latency.protocol import Protocol, spread_over
from fairseq_ffn.latency.record import build_record, read_record, summary
from latency.fakes import FakeClock, FakeMemory, FakeModel


def measure(seconds, runs=3, warmup=(), between=0.0):
    """All of a measurement, as the task makes it."""
    clock, memory = FakeClock(), FakeMemory()
    model = FakeModel(clock, seconds)
    measurement = Measurement(runs, len(seconds), clock, memory)
    measurement.warm_up([partial(model.decode, batch) for batch in warmup])
    outputs = []
    for batch in range(len(seconds)):
        outputs.append(measurement.first(partial(model.decode, batch)))
        clock.time += between  # fairseq-generate detokenises and prints
    measurement.repeat()
    return measurement, model, outputs


def record_of(measurement, **settings):
    return build_record(
        measurement.timed,
        measurement.peak_megabytes,
        "fake",
        Protocol(**settings),
        "a.pt",
        "arch",
        {"total": 7, "body": 3},
        {"torch": "1"},
        {"cpu": "x"},
    )


def test_each_run_decodes_the_same_batches_in_the_same_order():
    measurement, model, outputs = measure([1.0, 2.0, 3.0], runs=3)
    assert model.calls == [0, 1, 2] * 3
    assert outputs == ["translation 0", "translation 1", "translation 2"]
    assert measurement.complete
    assert [[timed.seconds for timed in run] for run in measurement.timed] == [[1, 2, 3]] * 3


def test_warm_up_is_not_counted():
    measurement, model, _ = measure([1.0, 2.0], runs=2, warmup=(1, 0, 1))
    assert model.calls == [1, 0, 1] + [0, 1] * 2
    assert sum(len(run) for run in measurement.timed) == 4


def test_what_happens_between_batches_is_not_counted():
    measurement, _, _ = measure([1.0, 2.0], runs=2, between=50.0)
    assert [[timed.seconds for timed in run] for run in measurement.timed] == [[1, 2]] * 2


def test_one_run_is_complete_with_its_last_batch():
    measurement, model, _ = measure([1.0, 2.0], runs=1)
    assert measurement.complete and model.calls == [0, 1]


def test_an_unfinished_measurement_says_how_far_it_came():
    clock = FakeClock()
    model = FakeModel(clock, [1.0, 1.0])
    measurement = Measurement(2, 2, clock, FakeMemory())
    assert measurement.how_far() == "no batch was timed"
    measurement.first(partial(model.decode, 0))
    assert not measurement.complete
    assert measurement.how_far() == "run 1 of 2, batch 1 of 2"


def test_progress_names_run_batch_and_remaining_time(monkeypatch):
    now = [0.0]

    def monotonic():
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr(measurement_module.time, "monotonic", monotonic)
    clock, lines = FakeClock(), []
    model = FakeModel(clock, [1.0] * 4)
    measurement = Measurement(2, 4, clock, FakeMemory(), lines.append)
    for batch in range(4):
        measurement.first(partial(model.decode, batch))
    measurement.repeat()
    # each batch takes 10 seconds, and every 15 at the soonest there is a line
    assert lines == [
        "latency: run 1 of 2, batch 1 of 4, about 1:10 left",
        "latency: run 1 of 2, batch 3 of 4, about 0:50 left",
        "latency: run 2 of 2, batch 1 of 4, about 0:30 left",
        "latency: run 2 of 2, batch 3 of 4, about 0:10 left",
    ]


def test_figures_of_the_record():
    measurement, _, _ = measure([1.0, 2.0, 3.0], runs=2)
    record = record_of(measurement)
    # 10 + 20 + 30 tokens and 1 + 2 + 3 sentences in 6 seconds
    assert record["tokens_per_second"]["runs"] == [10.0, 10.0]
    assert record["tokens_per_second"]["std"] == 0.0
    assert record["sentences_per_second"]["mean"] == 1.0
    assert (record["tokens"], record["sentences"], record["batches"]) == (60, 6, 3)
    assert record["latency_ms"] == {"mean": 2000.0, "p50": 2000.0, "p90": 3000.0, "p99": 3000.0}
    # of six sentences, three waited for the batch of three seconds
    weighted = record["latency_ms_per_sentence"]
    assert weighted["mean"] == pytest.approx(1000 * (1 + 2 * 2 + 3 * 3) / 6)
    assert weighted["p50"] == 2000.0
    assert record["encoder_ms"] == 250.0
    assert record["decoder_ms_per_step"] == pytest.approx(1000 * (6 - 0.75) / 15)
    assert record["peak_memory_mb"] == 2.0
    assert len(record["raw"]) == 2 and record["raw"][1][2]["seconds"] == 3.0


def test_a_model_without_an_encoder_apart():
    clock = FakeClock()
    model = FakeModel(clock, [1.0])
    measurement = Measurement(1, 1, clock, FakeMemory())
    measurement.first(partial(model.decode, 0, encoder=None))
    record = record_of(measurement)
    assert record["encoder_ms"] is None and record["decoder_ms_per_step"] is None
    assert not any("encoder" in line for line in summary(record))


def test_the_summary_is_short_and_says_how_it_was_measured():
    measurement, _, _ = measure([1.0, 2.0, 3.0], runs=2)
    lines = summary(record_of(measurement, threads=2))
    assert lines[0] == "arch, cpu, 2 threads, float32, batch 1, beam 5, 2 runs of 6 sentences"
    assert lines[1] == "tokens/s     10.0 ± 0.0 (95% interval 10.0 to 10.0)"
    assert len(lines) <= 7


def test_a_record_is_read_as_it_was_written(tmp_path):
    measurement, _, _ = measure([1.0, 2.0], runs=2)
    record = record_of(measurement)
    path = tmp_path / "latency.json"
    write_json(path, record)
    assert read_record(path) == json.loads(json.dumps(record))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": "other/1"}'])
def test_other_files_are_no_records(tmp_path, text):
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(UserError, match="latency.json"):
        read_record(path)


def test_all_keys_that_others_read():
    measurement, _, _ = measure([1.0], runs=1)
    record = record_of(measurement)
    assert set(record) >= {
        *("schema", "checkpoint", "arch", "parameters", "protocol", "tokens_per_second"),
        *("sentences_per_second", "latency_ms", "encoder_ms", "decoder_ms_per_step"),
        *("peak_memory_mb", "tokens", "sentences", "versions", "machine"),
    }
    assert set(record["protocol"]) >= {
        *("device", "threads", "dtype", "batch_size", "beam", "runs", "warmup"),
        *("max_len_a", "max_len_b"),
    }


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(10, 0, []), (10, 1, [5]), (10, 2, [0, 9]), (5, 5, [0, 1, 2, 3, 4]), (2, 4, [0, 0, 1, 1])],
)
def test_numbers_spread_over_a_set(count, wanted, expected):
    assert spread_over(count, wanted) == expected
