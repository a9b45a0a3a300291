from __future__ import annotations

import json
import os

import pytest

from fairseq_ffn.errors import UserError
from fairseq_ffn.reporting.hypotheses import read_hypotheses
from fairseq_ffn.reporting.run_directory import RunDirectory
from fairseq_ffn.reporting.score_runs import score_runs
from reporting.runs import REFERENCES, make_run


def generated(path, *numbers, score="-0.5"):
    lines = [f"S-{n}\tsource\nH-{n}\t{score}\tx\nD-{n}\t{score}\ttext {n}" for n in numbers]
    path.write_text("\n".join(["| INFO | log", *lines, "Generate test with beam=5: ..."]) + "\n")


def test_hypotheses_come_in_corpus_order(tmp_path):
    path = tmp_path / "generate.log"
    path.write_text("D-1\t-0.5\tzwei\nH-0\t-1\tx\nD-0\t-0.1\teins\u2028!\n", encoding="utf-8")
    assert read_hypotheses(path, 2) == ["eins\u2028!", "zwei"]
    assert read_hypotheses(path) == ["eins\u2028!", "zwei"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 3), r"2 of 4 sentences are missing \(1, 2\)"),
        ((0, 1, 2), r"1 of 4 sentences are missing \(3\)"),
        ((0, 1, 2, 3, 1), r"1 sentences are there twice \(1\)"),
        ((0, 1, 2, 3, 4), "has sentence 4, but there are only 4 references"),
        ((), "no line of a hypothesis"),
    ],
)
def test_hypotheses_that_are_missing_or_doubled_are_named(tmp_path, numbers, message):
    path = tmp_path / "generate.log"
    generated(path, *numbers)
    with pytest.raises(UserError, match=message):
        read_hypotheses(path, 4)


def test_a_run_of_fairseq_generates_output_gets_its_hypotheses(tmp_path):
    run = make_run(tmp_path / "run", None)
    generated(run / "generate-test.txt", *reversed(range(len(REFERENCES))))
    texts = RunDirectory(run).texts()
    assert texts.hypotheses == [f"text {n}" for n in range(len(REFERENCES))]
    assert (run / "hypothesis.txt").read_text().splitlines() == texts.hypotheses


def test_the_subset_is_in_the_name_of_the_output(tmp_path):
    run = make_run(tmp_path / "run", None)
    generated(run / "generate-test1.txt", *range(len(REFERENCES)))
    (run / "generate.log").write_text("what fairseq-generate logs\n")
    assert RunDirectory(run).texts().hypotheses[3] == "text 3"


def dated(path, seconds):
    """Give a file a date, in seconds from now."""
    now = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(now, now))


@pytest.mark.parametrize("name", ["generate-test.txt", "generate.log"])
def test_a_translation_made_anew_is_scored_anew(tmp_path, name, caplog):
    run = make_run(tmp_path / "run", None)
    generated(run / name, *range(len(REFERENCES)))
    before = score_runs([RunDirectory(run)])[0]["bleu"]["score"]
    (run / name).write_text("".join(f"D-{n}\t-1\t{text}\n" for n, text in enumerate(REFERENCES)))
    dated(run / name, 60)
    caplog.set_level("INFO")
    after = score_runs([RunDirectory(run)])[0]["bleu"]["score"]
    assert before < 1 and after == pytest.approx(100)
    assert f"{run / 'hypothesis.txt'} is made from {name}" in caplog.messages
    assert (run / "hypothesis.txt").read_text().splitlines() == REFERENCES


def test_hypotheses_that_are_newer_than_an_output_or_the_same_stay(tmp_path):
    run = make_run(tmp_path / "run", 3)
    text = (run / "hypothesis.txt").read_text()
    generated(run / "generate-test.txt", *range(len(REFERENCES)))
    dated(run / "generate-test.txt", -60)
    assert RunDirectory(run).texts().hypotheses == text.splitlines()
    same = "".join(f"D-{n}\t-1\t{line}\n" for n, line in enumerate(text.splitlines()))
    (run / "generate-test.txt").write_text(same)
    dated(run / "generate-test.txt", 60)
    date = (run / "hypothesis.txt").stat().st_mtime_ns
    assert RunDirectory(run).texts().hypotheses == text.splitlines()
    assert (run / "hypothesis.txt").stat().st_mtime_ns == date


def test_a_newer_log_without_hypotheses_is_no_output(tmp_path):
    run = make_run(tmp_path / "run", 3)
    (run / "generate.log").write_text("what fairseq-generate logs\n")
    dated(run / "generate.log", 60)
    assert len(RunDirectory(run).texts().hypotheses) == 40
    (run / "hypothesis.txt").unlink()
    with pytest.raises(UserError, match="no hypothesis.txt, and no output of fairseq-generate"):
        RunDirectory(run).texts()


def test_an_output_that_is_newer_but_not_whole_is_an_error(tmp_path):
    run = make_run(tmp_path / "run", 3)
    generated(run / "generate-test.txt", *range(len(REFERENCES) - 1))
    dated(run / "generate-test.txt", 60)
    with pytest.raises(UserError, match="generate-test.txt: 1 of 40 sentences are missing"):
        RunDirectory(run).texts()


@pytest.mark.parametrize("other", ["generate-valid.txt", "generate.log"])
def test_several_outputs_are_refused_unless_the_hypotheses_are_newer(tmp_path, other):
    run = make_run(tmp_path / "run", 3)
    for name in ("generate-test.txt", other):
        generated(run / name, *range(len(REFERENCES)))
        dated(run / name, -60)
    before = RunDirectory(run).texts().hypotheses
    assert "text 0" not in before
    dated(run / other, 120)
    message = f"several outputs of fairseq-generate .generate-test.txt, {other}."
    with pytest.raises(UserError, match=message):
        RunDirectory(run).texts()
    (run / "hypothesis.txt").unlink()
    with pytest.raises(UserError, match=message):
        RunDirectory(run).texts()


def test_a_number_of_a_sentence_that_is_none_is_no_hypothesis(tmp_path):
    path = tmp_path / "generate.log"
    path.write_text("D-0\t-1\teins\nD-" + "9" * 5000 + "\t-1\tzwei\nD-\u0663\t-1\tdrei\n")
    assert read_hypotheses(path, 1) == ["eins"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hypothesis.txt", b"one\n", "hypothesis.txt: 1 lines, but there are 40 references"),
        ("hypothesis.txt", b"", "hypothesis.txt: is empty"),
        ("source.txt", b"one\n", "source.txt: 1 lines"),
        ("reference.txt", b"a\nb\ncaf\xe9\n", "reference.txt, line 3: not UTF-8"),
        ("hypothesis.txt", None, "no hypothesis.txt"),
        ("reference.txt", None, "no reference.txt"),
    ],
)
def test_broken_texts_are_named(tmp_path, name, content, message):
    run = make_run(tmp_path / "run")
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        RunDirectory(run).texts()


def test_several_references(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "reference.txt").rename(run / "reference.a.txt")
    (run / "reference.b.txt").write_text((run / "hypothesis.txt").read_text())
    texts = RunDirectory(run).texts()
    assert len(texts.references) == 2
    record = score_runs([RunDirectory(run)])[0]
    assert record["references"] == 2 and record["bleu"]["score"] == pytest.approx(100)
    (run / "reference.b.txt").write_text("one\n")
    with pytest.raises(UserError, match="reference.b.txt: 1 lines, but .*reference.a.txt has 40"):
        RunDirectory(run).texts()


def test_one_reference_beside_several_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "reference.b.txt").write_text((run / "reference.txt").read_text())
    with pytest.raises(UserError, match="reference.txt: there is reference.b.txt as well"):
        RunDirectory(run).texts()


def test_no_such_directory(tmp_path):
    with pytest.raises(UserError, match="no such run directory"):
        RunDirectory(tmp_path / "nothing")


def test_scores_and_significance_are_written(tmp_path):
    runs = [
        RunDirectory(make_run(tmp_path / name, errors)) for name, errors in (("a", 1), ("b", 12))
    ]
    records = score_runs(runs, runs[0])
    assert [json.loads(run.scores.read_text()) for run in runs] == records
    assert "significance" not in records[0]
    found = records[1]["significance"]
    assert found["baseline"] == "a" and found["test"] == "paired bootstrap"
    assert found["bleu_p"] < 0.05 and found["samples"] == 1000
    assert records[1]["bleu"]["score"] < records[0]["bleu"]["score"]


def test_a_copy_does_not_differ(tmp_path):
    runs = [RunDirectory(make_run(tmp_path / name, 5)) for name in ("a", "b")]
    for test in ("paired-bs", "paired-ar"):
        found = score_runs(runs, runs[0], test, samples=200)[1]["significance"]
        assert found["bleu_p"] == found["chrf_p"] == 1.0


def test_runs_with_other_references_are_not_compared(tmp_path):
    runs = [RunDirectory(make_run(tmp_path / name)) for name in ("a", "b")]
    (runs[1].path / "reference.txt").write_text("x\n" * len(REFERENCES))
    with pytest.raises(UserError, match="references differ from those of"):
        score_runs(runs, runs[0])
    assert not runs[0].scores.exists()
