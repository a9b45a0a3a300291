from __future__ import annotations

import json

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
