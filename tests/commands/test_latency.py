"""Task translation_latency and fairseq-ffn compare-latency on real command lines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import pytest

from commands.lab import (
    ALL_SENTENCES,
    BIN,
    INSTALLED,
    environment,
    hypotheses,
    result_lines,
    words,
)
from fairseq_ffn.latency.record import read_record

pytestmark = pytest.mark.slow

#: a generated token each 5 milliseconds at least: enough to see a stop in the middle
SHORT = words("--task translation_latency --latency-runs 2 --latency-warmup 1")


def checkpoint(lab, name):
    return lab.trained(name) / "checkpoint_last.pt"


@pytest.mark.parametrize("name", ["baseline", "one_wide", "stock"])
def test_same_output_as_translation_and_a_complete_record(lab, tmp_path, name):
    plain = lab.generated(name, "float32")
    report = tmp_path / "latency.json"
    result = lab.generate(checkpoint(lab, name), "--beam", 4, *SHORT, "--latency-report", report)
    assert result_lines(result.out) == result_lines(plain)
    # BLEU appears once, and so does each hypothesis
    assert len(re.findall(r"^Generate test", result.out, re.MULTILINE)) == 1
    assert len(result_lines(result.out)) == len(set(result_lines(result.out)))
    record = read_record(report)
    found = re.search(r"Translated ([\d,]+) sentences \(([\d,]+) tokens\)", result.out + result.err)
    assert record["sentences"] == int(found.group(1)) == 30
    assert record["tokens"] == int(found.group(2))
    assert record["batches"] == 2 and len(record["raw"]) == 2
    assert record["protocol"]["batch_size"] == 16 and record["protocol"]["beam"] == 4
    assert record["protocol"]["threads"] == 1 and record["protocol"]["dtype"] == "float32"
    assert record["checkpoint"] == str(checkpoint(lab, name))
    arch = {"stock": "transformer"}.get(name, f"transformer_ffn_tiny_{name}")
    assert record["arch"] == arch
    assert 0 < record["encoder_ms"] < record["latency_ms"]["mean"]
    assert record["decoder_ms_per_step"] > 0 and record["peak_memory_mb"] > 50
    steps = [timed["steps"] for timed in record["raw"][0]]
    assert steps == [timed["steps"] for timed in record["raw"][1]]
    longest = max(len(text.split()) for text in hypotheses(plain).values())
    assert max(steps) >= longest + 1
    assert "tokens/s" in result.out + result.err


def test_ensembles_prefixes_and_a_part_of_the_batches(lab, tmp_path):
    path = f"{checkpoint(lab, 'baseline')}:{checkpoint(lab, 'one_wide')}"
    options = ["--beam", 2, "--prefix-size", 1, "--print-alignment"]
    plain = lab.generate(path, *options)
    report = tmp_path / "latency.json"
    more = ["--latency-report", report, "--latency-max-batches", 1]
    result = lab.generate(path, *options, *SHORT, *more)
    assert result_lines(result.out) == result_lines(plain.out)
    record = read_record(report)
    assert (record["batches"], record["batches_of_set"]) == (1, 2)
    assert [len(run) for run in record["raw"]] == [1, 1]
    assert record["arch"] == "transformer_ffn_tiny_baseline:transformer_ffn_tiny_one_wide"
    assert record["protocol"]["prefix_size"] == 1
    single = lab.trained("baseline") / "single.json"
    lab.generate(checkpoint(lab, "baseline"), *SHORT, "--latency-report", single)
    assert read_record(single)["parameters"]["total"] < record["parameters"]["total"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latency-runs", 0], "--latency-runs 0: must be at least 1"),
        (["--latency-warmup", -1], "--latency-warmup -1: must be at least 0"),
        (["--latency-max-batches", 0], "--latency-max-batches 0: must be at least 1"),
        (["--latency-report", "nowhere/latency.json"], "there is no directory nowhere"),
        (["--latency-report", "."], "is a directory"),
        (["--score-reference"], "--score-reference"),
    ],
)
def test_what_can_not_be_honoured_is_one_line(lab, options, message):
    task = words("--task translation_latency")
    result = lab.generate(checkpoint(lab, "baseline"), *task, *options, fails=True)
    assert message in result.error_line()


def test_it_does_not_train(lab, tmp_path):
    arguments = lab.training(tmp_path, "transformer_ffn_tiny", "--max-update", 1)
    result = lab.run("fairseq-train", *arguments, *SHORT, fails=True)
    assert "--task translation_latency measures fairseq-generate" in result.error_line()


@pytest.mark.parametrize(
    ("end", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_an_interrupted_measurement_writes_nothing_and_says_how_far_it_came(
    lab, tmp_path, end, status
):
    report = tmp_path / "latency.json"
    command = [
        *(BIN / "fairseq-generate", lab.data(), "--path", checkpoint(lab, "baseline")),
        *("--user-dir", INSTALLED, *ALL_SENTENCES, "--batch-size", 1, "--beam", 4),
        *words("--task translation_latency --latency-runs 100000 --latency-warmup 0"),
        *("--latency-report", report),
    ]
    errors = tmp_path.parent / f"{tmp_path.name}.err"  # the progress bar must not break lines
    with open(errors, "w") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            env=environment({"PYTHONUNBUFFERED": "1"}),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # a job in the background inherits that it ignores the signal
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        printed = 0
        while printed < 30:
            line = process.stdout.readline()
            assert line, errors.read_text()
            printed += line.startswith("P-")
        time.sleep(2.0)
        process.send_signal(end)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    pattern = r"latency: interrupted in run \d+ of 100000, batch \d+ of 30; .* not written"
    assert re.search(pattern, errors.read_text())
    assert list(tmp_path.iterdir()) == []


def test_compare_latency_of_checkpoints(lab, tmp_path):
    output = tmp_path / "comparison.json"
    paths = [checkpoint(lab, name) for name in ("baseline", "one_wide", "stock")]
    result = lab.run(
        *("fairseq-ffn", "compare-latency", *paths, "--data", lab.data(), "--beam", 2),
        *words("--rounds 2 --sentences 10 --batch-sizes 1,4 --cpu --output"),
        output,
    )
    record = json.loads(output.read_text())
    assert [model["name"] for model in record["models"]] == [
        "trained" if name == "none" else name for name in ("baseline", "one_wide", "stock")
    ]
    assert [table["batch_size"] for table in record["results"]] == [1, 4]
    for table in record["results"]:
        assert len(table["ratios"]) == 3 and table["batches"] in (10, 7)
        for ratio in table["ratios"]:
            assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
        for model in table["models"]:
            assert len(model["raw"]) == 2 and 0 < model["encoder_share"] < 1
    assert "batch size 4" in result.out and "break-even" in result.out
    assert "against baseline" in result.out
    assert [pair["name"] for pair in record["break_evens"]] == ["one_wide", "stock", "stock"]
    for pair in record["break_evens"]:
        assert sorted(pair["faster"] + pair["slower"] + pair["not_told_apart"]) == [1, 4]
        assert f"{pair['name']} against {pair['baseline']}: " in result.out
    few = "test: 7 batches of 4, since it has no more; with few batches the intervals are wide"
    assert few in result.err


def test_half_precision_is_recorded_and_decodes_as_fairseq_does(lab, tmp_path):
    plain = lab.generate(checkpoint(lab, "baseline"), "--beam", 2, "--fp16")
    report = tmp_path / "latency.json"
    more = ["--beam", 2, "--fp16", *SHORT, "--latency-report", report]
    result = lab.generate(checkpoint(lab, "baseline"), *more)
    assert result_lines(result.out) == result_lines(plain.out)
    assert read_record(report)["protocol"]["dtype"] == "float16"


def test_two_threads_and_batches_by_tokens_and_what_the_record_says_of_them(lab, tmp_path):
    report = tmp_path / "latency.json"
    lab.run(
        *("fairseq-generate", lab.data(), "--path", checkpoint(lab, "baseline")),
        *("--user-dir", INSTALLED, *ALL_SENTENCES, *SHORT, "--latency-threads", 2, "--beam", 1),
        *("--latency-report", report),
    )
    protocol = read_record(report)["protocol"]
    assert protocol["threads"] == 2
    assert (protocol["batch_size"], protocol["max_tokens"]) == (None, 12000)


def test_compare_latency_counts_the_tokens_that_fairseq_generate_gives(lab, tmp_path):
    output = tmp_path / "comparison.json"
    lab.run(
        *("fairseq-ffn", "compare-latency", checkpoint(lab, "baseline"), "--data", lab.data()),
        *words("--beam 4 --rounds 1 --sentences 30 --cpu --output"),
        output,
    )
    timed = json.loads(output.read_text())["results"][0]["models"][0]["raw"][0]
    expected = sorted(
        len(text.split()) + 1 for text in hypotheses(lab.generated("baseline")).values()
    )
    assert sorted(batch["tokens"] for batch in timed) == expected


def test_compare_latency_of_untrained_architectures(lab, tmp_path):
    output = tmp_path / "comparison.json"
    lab.run(
        *words("fairseq-ffn compare-latency --random-init --vocab-size 200 --force-length 7"),
        *words("--arch transformer_ffn_tiny,transformer_ffn_tiny_one_wide --source-lengths 5,9"),
        *words("--rounds 1 --sentences 6 --batch-sizes 1,3 --cpu --output"),
        output,
    )
    record = json.loads(output.read_text())
    assert [(table["source_length"], table["batch_size"]) for table in record["results"]] == [
        (5, 1),
        (5, 3),
        (9, 1),
        (9, 3),
    ]
    for table in record["results"]:
        for model in table["models"]:
            for batch in model["raw"][0]:
                # seven tokens and end of sentence
                assert batch["tokens"] == 8 * table["batch_size"] and batch["steps"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name checkpoints to compare"),
        ("a.pt", "--data DIR"),
        ("a.pt --data . --arch x", "--arch: only with --random-init"),
        ("--random-init", "--arch A,B"),
        ("--random-init --arch x", "either --vocab-size V or --data DIR"),
        ("--random-init --arch nothing --force-length 3 --vocab-size 9", "--arch nothing: no such"),
        ("a.pt --data . --source-lang en", "go together"),
        ("a.pt --data . --fp16 --cpu", "--fp16: needs a GPU"),
        ("a.pt --data . --output nowhere/x.json", "--output nowhere/x.json"),
        ("nothing.pt --data .", "nothing.pt"),
    ],
)
def test_compare_latency_refuses_in_one_line(lab, arguments, message):
    result = lab.run("fairseq-ffn", "compare-latency", *words(arguments), fails=True)
    assert result.status == 1
    lines = [line for line in result.err.splitlines() if ": error: " in line]
    assert len(lines) == 1 and message in lines[0], result.err
    assert "Traceback" not in result.err
