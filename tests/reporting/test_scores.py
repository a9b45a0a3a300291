"""BLEU and chrF are sacreBLEU's, with signatures; sides that don't match are an error."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import sacrebleu

from fairseq_ffn.cli.main import main
from fairseq_ffn.errors import UserError
from fairseq_ffn.reporting import score_runs as score_runs_module
from fairseq_ffn.reporting import scores
from fairseq_ffn.reporting.scores import comet, score
from reporting.runs import make_run

HYPOTHESES = ["Das ist ein kleiner Test.", "Wo ist mein Buch?", "Er kam gestern spät nach Hause."]
REFERENCES = ["Das ist ein kleiner Versuch.", "Wo ist mein Buch?", "Er kam gestern spät heim."]
OTHERS = ["Dies ist ein kleiner Test.", "Wo liegt mein Buch?", "Gestern kam er spät nach Hause."]


def test_one_reference():
    record = score(HYPOTHESES, [REFERENCES])
    assert record["bleu"]["score"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert record["chrf"]["score"] == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert record["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp")
    assert record["chrf"]["signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no")
    assert (record["sentences"], record["references"]) == (3, 1)


def test_two_references_are_used():
    both = score(HYPOTHESES, [REFERENCES, OTHERS])
    assert both["references"] == 2 and "nrefs:2" in both["bleu"]["signature"]
    assert both["bleu"]["score"] > score(HYPOTHESES, [REFERENCES])["bleu"]["score"]


def test_a_copy_of_the_reference_is_100():
    assert score(REFERENCES, [REFERENCES])["bleu"]["score"] == pytest.approx(100)


def test_sides_that_do_not_match_are_refused():
    with pytest.raises(UserError, match="reference 0 has 2 lines, but there are 3"):
        score(HYPOTHESES, [REFERENCES[:2]])
    with pytest.raises(UserError, match="nothing to score"):
        score([], [[]])


@pytest.fixture
def fake_comet(monkeypatch):
    """COMET that scores by the lengths of source, hypothesis and reference; keeps its calls."""
    calls = []

    def load_from_checkpoint(path):
        calls.append(f"load {path}")
        if path == "models/bad":
            raise RuntimeError("Error(s) in loading state_dict:\n  Missing keys")

        def predict(data, **options):
            score = sum(
                len(one["src"]) + 10 * len(one["mt"]) + 100 * len(one["ref"]) for one in data
            )
            return SimpleNamespace(system_score=score / len(data) / 1000)

        return SimpleNamespace(predict=predict)

    def download_model(name):
        calls.append(f"download {name}")
        return f"models/{name}"

    fake = SimpleNamespace(download_model=download_model, load_from_checkpoint=load_from_checkpoint)
    monkeypatch.setitem(sys.modules, "comet", fake)
    scores._comet_scorer.cache_clear()
    yield calls
    scores._comet_scorer.cache_clear()


def test_comet_gets_each_side_in_its_place_and_is_times_100(fake_comet):
    record = comet(["a", "bcd"], ["abcd", "ef"], [["123456", "12"], ["", ""]], "wmt20-comet-da")
    mean = (1 + 3) / 2 + 10 * (4 + 2) / 2 + 100 * (6 + 2) / 2
    assert record == {"score": pytest.approx(100 * mean / 1000), "model": "wmt20-comet-da"}
    assert fake_comet == ["download wmt20-comet-da", "load models/wmt20-comet-da"]


def test_a_model_of_comet_is_loaded_once_for_all_runs(fake_comet, tmp_path, capsys):
    runs = [str(make_run(tmp_path / name, 1)) for name in ("a", "b")]
    model = tmp_path / "mine.ckpt"
    model.write_bytes(b"")
    assert main(["score", *runs, "--comet", str(model)]) == 0
    assert fake_comet == [f"load {model}"]
    assert f"COMET: {model}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("missing.ckpt", "--comet missing.ckpt: there is no such file"),
        ("bad", "--comet bad: can't be loaded (Error(s) in loading state_dict:)"),
    ],
)
def test_a_model_of_comet_that_can_not_be_had_is_one_line(
    fake_comet, tmp_path, capsys, model, message
):
    run = make_run(tmp_path / "a", 1)
    assert main(["score", str(run), "--comet", model]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"fairseq-ffn score: error: {message}"
    assert not (run / "scores.json").exists()


def test_comet_needs_sources(fake_comet, tmp_path, capsys):
    run = make_run(tmp_path / "a", 1)
    (run / "source.txt").unlink()
    assert main(["score", str(run), "--comet", "x"]) == 1
    assert "needs source.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "tokenizer"),
    [
        (["--spbleu"], "flores101"),
        (["--spbleu-tokenizer", "flores200"], "flores200"),
        (["--spbleu-tokenizer", "flores200", "--spbleu"], "flores200"),
    ],
)
def test_spbleu_before_a_run_directory(tmp_path, monkeypatch, capsys, flags, tokenizer):
    def spbleu(hypotheses, references, tokenizer):
        return {"score": 7.0, "signature": f"tok:{tokenizer}|"}

    monkeypatch.setattr(score_runs_module, "spbleu", spbleu)
    assert main(["score", *flags, str(make_run(tmp_path / "a", 1))]) == 0
    assert f"spBLEU: tok:{tokenizer}|" in capsys.readouterr().out
