"""What compare-latency makes of data and models that fit badly; many, so in this process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from commands.lab import INSTALLED, words, write_corpus
from fairseq_ffn.checkpoints import load_checkpoint, save_checkpoint
from fairseq_ffn.cli.main import main
from fairseq_ffn.decoding.candidates import LoadedModel
from fairseq_ffn.latency import comparison
from fairseq_ffn.latency.comparison_record import read_comparison

pytestmark = pytest.mark.slow

QUICK = words("--cpu --rounds 1 --sentences 5 --warmup 1 --beam 1")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def compare(*arguments: object) -> int:
    """In this process."""
    return main(["compare-latency", *map(str, arguments), *QUICK])


def refused(capsys, *arguments: object) -> str:
    """The one line that it fails with."""
    assert compare(*arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    return line.removeprefix("fairseq-ffn compare-latency: error: ")


def baseline(lab) -> Path:
    return lab.trained("baseline") / "checkpoint_last.pt"


def changed(lab, path: Path, group: str, **settings: object) -> Path:
    """The baseline with other settings in its checkpoint."""
    state = load_checkpoint(baseline(lab))
    for key, value in settings.items():
        holder = state["cfg"][group]
        holder.update({key: value}) if isinstance(holder, dict) else setattr(holder, key, value)
    path.parent.mkdir(parents=True)
    save_checkpoint(state, path)
    return path


def lengths(lab) -> list:
    """Of the test set's sources, end of sentence counted."""
    lines = (lab.data().parent / "test.xx").read_text().splitlines()
    return [len(line.split()) + 1 for line in lines]


def test_the_shortest_limit_of_all_models_counts_and_what_it_drops_is_said(lab, tmp_path, capsys):
    short = changed(lab, tmp_path / "short" / "model.pt", "model", max_source_positions=6)
    output = tmp_path / "comparison.json"
    arguments = [baseline(lab), short, "--data", lab.data(), "--output", output]
    assert compare(*arguments, "--batch-sizes", 1) == 0
    dropped = sum(length > 6 for length in lengths(lab))
    assert 0 < dropped < 30
    line = (
        f"test: {dropped} of 30 sentences are left out, since they are longer than the models take "
        "(6 source, 1024 target tokens)"
    )
    assert capsys.readouterr().err.splitlines().count(line) == 1
    assert json.loads(output.read_text())["protocol"]["sentences_left_out"] == dropped


def test_nothing_is_left(lab, tmp_path, capsys):
    short = changed(lab, tmp_path / "short" / "model.pt", "model", max_source_positions=2)
    line = refused(capsys, short, "--data", lab.data())
    assert line.startswith("--gen-subset test: all 30 sentences are longer than the models take (2")


def test_an_empty_set(lab, tmp_path, capsys):
    write_corpus(tmp_path)
    for language in ("xx", "yy"):
        (tmp_path / f"test.{language}").write_text("")
    lab.preprocess(tmp_path)
    line = refused(capsys, baseline(lab), "--data", tmp_path / "bin")
    assert line.startswith("--gen-subset test: ") and line.endswith(
        "is empty, there is no sentence"
    )
    result = lab.run(
        *("fairseq-generate", tmp_path / "bin", "--path", baseline(lab)),
        *("--user-dir", INSTALLED),
        *words("--task translation_latency"),
        fails=True,
    )
    assert "is empty, there is no sentence" in result.error_line()


def test_too_large_a_batch_is_refused_before_anything_is_measured(lab, capsys):
    line = refused(capsys, baseline(lab), "--data", lab.data(), "--batch-sizes", "1,30,31")
    assert line == "--batch-sizes 31: the set test has only 30 sentences"
    assert compare(baseline(lab), "--data", lab.data(), "--batch-sizes", 30) == 0


def test_models_of_two_pairs_of_languages(lab, tmp_path, capsys):
    turned = changed(
        lab, tmp_path / "turned" / "model.pt", "task", source_lang="yy", target_lang="xx"
    )
    line = refused(capsys, baseline(lab), turned, "--data", lab.data())
    assert line.startswith(f"checkpoint {turned}: translates yy-xx, but {baseline(lab)} xx-yy")


def test_an_unknown_set_is_refused_with_those_that_there_are(lab, capsys):
    line = refused(capsys, baseline(lab), "--data", lab.data(), "--gen-subset", "tset")
    assert line == f"--gen-subset tset: {lab.data()} has no such set; it has test, train, valid"


def test_a_run_directory_instead_of_a_checkpoint(lab, tmp_path, capsys):
    run = baseline(lab).parent
    line = refused(capsys, run, "--data", lab.data())
    assert line == (
        f"checkpoint {run}: is a directory; name a checkpoint in it, such as {baseline(lab)}"
    )
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    line = refused(capsys, tmp_path / "run", "--data", lab.data())
    assert line.endswith("is a directory; name a .pt file")
    inside = tmp_path / "run" / "checkpoints" / "checkpoint_best.pt"
    inside.touch()
    line = refused(capsys, baseline(lab), tmp_path / "run", "--data", lab.data())
    assert line.endswith(f"such as {inside}")


def test_one_model_alone_has_no_ratio_and_is_told_so(capsys):
    assert compare(*UNTRAINED, "--vocab-size", 9, "--force-length", 2) == 0
    printed = capsys.readouterr()
    assert "one model, so there is no ratio" in printed.err
    assert "(10 batches)" in printed.out and "ratio" not in printed.out


def test_an_output_that_is_a_directory(lab, tmp_path, capsys):
    line = refused(capsys, baseline(lab), "--data", lab.data(), "--output", tmp_path)
    assert line == f"--output {tmp_path}: is a directory; name a file"


UNTRAINED = words("--random-init --arch transformer_ffn_tiny")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--vocab-size 4 --force-length 3", "--vocab-size 4: must be above 4"),
        ("--vocab-size 1 --force-length 3", "--vocab-size 1: must be above 4"),
        ("--vocab-size 9 --force-length 1024", "--force-length 1024: the models give at most 1023"),
        (
            "--vocab-size 9 --force-length 3 --source-lengths 3,1024",
            "--source-lengths 1024: the models take at most 1023",
        ),
    ],
)
def test_sizes_that_no_model_has(capsys, flags, message):
    assert refused(capsys, *UNTRAINED, *words(flags)).startswith(message)


def test_the_smallest_vocabulary_and_the_longest_sentence(capsys):
    flags = "--vocab-size 5 --force-length 2 --source-lengths 1023 --batch-sizes 1"
    assert compare(*UNTRAINED, *words(flags)) == 0
    assert "1023 source tokens" in capsys.readouterr().out


def test_untrained_models_decode_25_tokens_unless_told_otherwise(tmp_path, capsys):
    output = tmp_path / "comparison.json"
    assert compare(*UNTRAINED, "--vocab-size", 9, "--output", output) == 0
    assert "--force-length 25, since untrained models" in capsys.readouterr().err
    record = json.loads(output.read_text())
    assert record["protocol"]["force_length"] == 25
    table = record["results"][0]
    assert table["source_length"] == 25 and table["batches"] == 10
    assert {batch["tokens"] for batch in table["models"][0]["raw"][0]} == {26}


def test_two_batches_give_no_interval(lab, tmp_path, capsys):
    output = tmp_path / "comparison.json"
    twice = [baseline(lab)] * 2
    assert compare(*twice, "--data", lab.data(), "--batch-sizes", 15, "--output", output) == 0
    ratio = json.loads(output.read_text())["results"][0]["ratios"][0]
    assert ratio["ratio"] > 0 and ratio["low"] is None and ratio["high"] is None
    assert "[too few batches]" in capsys.readouterr().out
    read_comparison(output)


@pytest.mark.parametrize("flags", [[], ["--keep-in-place"]])
def test_weights_move_between_rounds_unless_they_are_to_stay(monkeypatch, tmp_path, flags):
    moved = []
    monkeypatch.setattr(LoadedModel, "refresh", lambda loaded: moved.append(loaded.name))
    output = tmp_path / "comparison.json"
    arguments = words("compare-latency --vocab-size 9 --force-length 2 --sentences 5 --rounds 3")
    assert main([*arguments, *UNTRAINED, "--cpu", *flags, "--output", str(output)]) == 0
    assert moved == ([] if flags else ["transformer_ffn_tiny"] * 2)
    assert json.loads(output.read_text())["protocol"]["keep_in_place"] is bool(flags)


def test_an_end_by_sigterm_says_how_far_it_came(monkeypatch, capsys):
    def ended(clock, decode):
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(comparison, "time_decode", ended)
    with pytest.raises(SystemExit) as end:
        compare(*UNTRAINED, "--vocab-size", 9, "--force-length", 2)
    assert end.value.code == 143
    assert "interrupted in round 1 of 1, batch 1 of 10" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("arch", ["transformer_lm", "nonautoregressive_transformer"])
def test_an_architecture_that_does_not_translate_by_beam_search(capsys, arch):
    line = refused(capsys, "--random-init", "--arch", arch, "--vocab-size", 9)
    assert line.startswith(f"--arch {arch}: no model that beam search translates with (")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x"])
def test_a_factor_is_a_number(capsys, value):
    with pytest.raises(SystemExit):
        compare("a.pt", "--data", ".", f"--max-len-a={value}")
    assert "is not a number from 0 on" in capsys.readouterr().err.splitlines()[-1]
