"""Records that are damaged, foreign or old: one line that names file and entry, or scored anew."""

from __future__ import annotations

import copy
import json

import pytest

from fairseq_ffn.cli.main import main
from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.comparison_record import read_comparison
from fairseq_ffn.latency.record import read_record
from fairseq_ffn.reporting.results import collect
from fairseq_ffn.reporting.run_directory import RunDirectory
from fairseq_ffn.reporting.training_log import read_curves
from reporting.runs import comparison_record, latency_record, make_run

GONE = object()
HUGE = 10**400
NAN, INFINITY = float("nan"), float("inf")


def changed(record, name, value):
    """A copy with another value at ``a.b.0.c``."""
    *way, last = (int(key) if key.isdecimal() else key for key in name.split("."))
    record = copy.deepcopy(record)
    place = record
    for key in way:
        place = place[key]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return record


LATENCY = [
    ("tokens_per_second", GONE, "tokens_per_second is missing"),
    ("tokens_per_second", 7, "tokens_per_second is 7, not an object"),
    ("tokens_per_second.std", GONE, "tokens_per_second.std is missing"),
    ("tokens_per_second.std", -1, "tokens_per_second.std is -1, not 0 or above"),
    ("tokens_per_second.mean", 0, "tokens_per_second.mean is 0, not above 0"),
    ("tokens_per_second.mean", "100", 'tokens_per_second.mean is "100", not a number'),
    ("tokens_per_second.mean", True, "tokens_per_second.mean is true, not a number"),
    ("tokens_per_second.mean", NAN, "tokens_per_second.mean is NaN, not a finite number"),
    ("tokens_per_second.mean", HUGE, "tokens_per_second.mean is 1000000000"),
    ("parameters", {}, "parameters.total is missing"),
    ("parameters", None, "parameters is null, not an object"),
    ("parameters.total", 0, "parameters.total is 0, not above 0"),
    ("parameters.body", 1.5, "parameters.body is 1.5, not a whole number"),
    ("protocol", GONE, "protocol is missing"),
    ("protocol.threads", "1", 'protocol.threads is "1", not a number'),
    ("protocol.device", None, "protocol.device is null, not a text"),
    ("protocol.batch_size", [1], "protocol.batch_size is [1], not a number"),
    ("protocol.max_tokens", GONE, "protocol.max_tokens is missing"),
    ("protocol.runs", INFINITY, "protocol.runs is Infinity, not a finite number"),
    ("sentences", -3, "sentences is -3, not above 0"),
    ("machine", GONE, "machine is missing"),
    ("machine.cpu", 3, "machine.cpu is 3, not a text"),
]


@pytest.mark.parametrize(("name", "value", "message"), LATENCY)
def test_a_damaged_measurement_is_one_line(tmp_path, capsys, name, value, message):
    runs = [make_run(tmp_path / "big", 1, speed=100.0), make_run(tmp_path / "one_wide", 2)]
    path = runs[1] / "latency.json"
    path.write_text(json.dumps(changed(latency_record(124.0), name, value)))
    arguments = ["report", *map(str, runs), "--output", str(tmp_path / "out"), "--no-plots"]
    assert main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"fairseq-ffn report: error: {path}: {message}")
    assert line.endswith("; measure again")
    assert not (tmp_path / "out").exists()


def test_a_whole_measurement_is_read(tmp_path):
    path = tmp_path / "latency.json"
    for name, value in (
        ("tokens_per_second.std", None),  # one run
        ("parameters.body", None),  # as build_record documents it
        ("parameters.total", None),
        ("machine.cpu", ""),
    ):
        record = changed(latency_record(124.0), name, value)
        path.write_text(json.dumps(record))
        assert read_record(path) == record


COMPARISON = [
    ("models", [], "models is [], not a list of at least one"),
    ("models.1.name", 7, "models[1].name is 7, not a text"),
    ("models.1.name", "big", "models: two have the same name"),
    ("protocol", GONE, "protocol is missing"),
    ("protocol.beam", 0, "protocol.beam is 0, not above 0"),
    ("protocol.force_length", "x", 'protocol.force_length is "x", not a number'),
    ("results", [], "results is [], not a list of at least one"),
    ("results.0.batch_size", None, "results[0].batch_size is null, not a number"),
    ("results.0.source_length", GONE, "results[0].source_length is missing"),
    ("results.0.batches", 0.5, "results[0].batches is 0.5, not a whole number"),
    ("results.0.models", [], "results[0].models is [], not a list of at least one"),
    ("results.0.models.0.name", "x", "results[0].models has no big"),
    ("results.0.models.1.tokens_per_second", GONE, "results[0].models[1].tokens_per_second is mis"),
    (
        "results.0.models.0.tokens_per_second.mean",
        NAN,
        "results[0].models[0].tokens_per_second.mea",
    ),
    (
        "results.0.models.0.tokens_per_second.std",
        GONE,
        "results[0].models[0].tokens_per_second.std",
    ),
    ("results.0.ratios.2", GONE, "results[0].ratios has no pair of one_wide and other"),
    ("results.0.ratios.0.ratio", 0, "results[0].ratios[0].ratio is 0, not above 0"),
    ("results.0.ratios.0.low", 0, "results[0].ratios[0].low is 0, not above 0"),
    ("results.0.ratios.0.low", 9.0, "results[0].ratios[0].low is 9.0, not below the interval's"),
    ("results.0.ratios.0.high", GONE, "results[0].ratios[0].high is missing"),
    ("results.0.ratios.0.high", None, "results[0].ratios[0] is {"),
    ("machine", GONE, "machine is missing"),
]


@pytest.mark.parametrize(("name", "value", "message"), COMPARISON)
def test_a_damaged_comparison_is_one_line(tmp_path, capsys, name, value, message):
    runs = [make_run(tmp_path / name, 1) for name in ("one_wide", "big", "other")]
    record = comparison_record({"big": 100.0, "one_wide": 124.0, "other": 90.0}, (1, 2))
    path = tmp_path / "latency_comparison.json"
    path.write_text(json.dumps(changed(record, name, value)))
    assert main(["report", *map(str, runs), "--output", str(tmp_path / "out")]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"fairseq-ffn report: error: {path}: {message}")
    assert line.endswith("; make it again")
    assert not (tmp_path / "out").exists()


def test_a_whole_comparison_is_read(tmp_path):
    path = tmp_path / "comparison.json"
    for record in (
        comparison_record({"big": 100.0, "one_wide": 124.0, "other": 90.0}, (1, 2), (None, 7)),
        comparison_record({"alone": 100.0}),
    ):
        path.write_text(json.dumps(record))
        assert read_comparison(path) == record


@pytest.mark.parametrize("read", [read_record, read_comparison])
@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "null", '{"schema": []}', "\xff"])
def test_what_is_no_record_is_one_line(tmp_path, read, text):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="^.*record.json: (damaged JSON|not a record|not a )") as no:
        read(path)
    assert len(str(no.value)) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bleu", GONE),
        ("bleu.signature", GONE),
        ("bleu.score", NAN),
        ("bleu.score", HUGE),
        ("chrf.score", "50"),
        ("chrf.signature", 7),
        ("sentences", GONE),
        ("sentences", "40"),
        ("references", None),
        ("significance", GONE),
        ("significance", []),
        ("significance.samples", GONE),
        ("significance.samples", "1000"),
        ("significance.bleu_p", NAN),
        ("significance.chrf_p", 2.0),
        ("significance.chrf_p", None),
    ],
)
def test_scores_that_are_damaged_are_made_anew(tmp_path, name, value):
    runs = [
        RunDirectory(make_run(tmp_path / name, errors)) for name, errors in (("a", 1), ("b", 9))
    ]
    whole = collect(runs)[1].scores
    runs[1].scores.write_text(json.dumps(changed(whole, name, value)))
    assert collect(runs)[1].scores == whole
    assert json.loads(runs[1].scores.read_text()) == whole


@pytest.mark.parametrize("damaged", [None, "x", {"score": 1.0}, {"score": NAN, "signature": "x"}])
def test_a_further_metric_that_is_damaged_is_left_out(tmp_path, damaged):
    run = RunDirectory(make_run(tmp_path / "a", 1))
    whole = collect([run])[0].scores
    run.scores.write_text(json.dumps({**whole, "ter": damaged}))
    output = tmp_path / "out"
    assert main(["report", str(run.path), "--output", str(output), "--no-plots"]) == 0
    assert collect([run])[0].scores == whole


def test_statistics_of_a_log_that_are_no_numbers_are_passed_over(tmp_path):
    log = tmp_path / "train.log"
    lines = [
        '{"loss": "2.5", "num_updates": "10"}',
        '{"loss": "nan", "num_updates": "20"}',
        '{"loss": "2.0", "num_updates": "inf"}',
        f'{{"loss": 2.0, "num_updates": {HUGE}}}',
        '{"loss": [2], "num_updates": 30}',
        '{"loss": ' + "[" * 100_000,
        '{"loss": "1.5", "num_updates": "40"}',
    ]
    log.write_text("".join(f"x | INFO | train_inner | {line}\n" for line in lines))
    assert read_curves(log).train == [(10, 2.5), (40, 1.5)]


def test_a_text_in_a_record_can_not_end_a_line_of_a_table(tmp_path):
    run = make_run(tmp_path / "a", 1)
    record = changed(
        latency_record(100.0), "machine.cpu", "x\n<script>alert(1)</script>\n\\input y"
    )
    (run / "latency.json").write_text(json.dumps(record))
    output = tmp_path / "out"
    assert main(["report", str(run), "--output", str(output), "--no-plots"]) == 0
    assert "<script>alert" not in (output / "report.html").read_text()
    assert "(x?\\<script>alert(1)\\</script>?\\input y)" in (output / "report.md").read_text()
    lines = (output / "report.tex").read_text().splitlines()
    assert all(line.startswith("% ") for line in lines[lines.index(r"\end{tabular}") + 1 :])
