from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from html.parser import HTMLParser

import pytest

from fairseq_ffn.cli.main import main
from fairseq_ffn.errors import UserError
from fairseq_ffn.reporting import plots, tables
from fairseq_ffn.reporting import score_runs as score_runs_module
from fairseq_ffn.reporting.page import page
from fairseq_ffn.reporting.results import collect
from fairseq_ffn.reporting.run_directory import RunDirectory
from fairseq_ffn.reporting.samples import choose, marked
from fairseq_ffn.reporting.score_runs import are_scores_of
from fairseq_ffn.reporting.significance import compare
from fairseq_ffn.reporting.speeds import find_comparison
from fairseq_ffn.reporting.training_log import read_curves
from reporting.runs import CPU, JSON_LOG, comparison_record, make_run

SIMPLE_LOG = """x | INFO | train_inner | epoch 001: 10 / 20 loss=9.5, nll_loss=9, num_updates=10
x | INFO | train_inner | epoch 001: 20 / 20 loss=6.5, nll_loss=6, num_updates=20, lr=1e-05
x | INFO | valid | epoch 001 | valid on 'valid' subset | loss 7.1 | nll_loss 6.5 | num_updates 20
"""


@pytest.fixture
def runs(tmp_path):
    found = [
        make_run(tmp_path / "big", 1, speed=100.0),
        make_run(tmp_path / "one_wide", 2, speed=124.0),
        make_run(tmp_path / "no <b>&_speed", 9),
    ]
    (found[0] / "train.log").write_text(JSON_LOG)
    return found


def results_of(runs):
    return collect([RunDirectory(run) for run in runs])


def test_tables_hold_the_same_figures(runs):
    results = results_of(runs)
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(results))))
    assert [row["run"] for row in rows] == ["big", "one_wide", "no <b>&_speed"]
    assert float(rows[1]["relative_speed"]) == pytest.approx(1.24)
    assert float(rows[1]["bleu"]) == results[1].scores["bleu"]["score"]
    assert rows[2]["tokens_per_second"] == "" and float(rows[2]["bleu_p"]) < 0.05
    lines = tables.markdown(results).splitlines()
    assert lines[0].startswith("| run | BLEU | chrF | tokens/s | speed | parameters | % |")
    assert "124.0 ± 1.2 | 1.24x | 2M | 100 | 1M | 100 |" in lines[3]
    assert re.search(r"\d\d\.\d† \| \d\d\.\d† \| - \| - \|", lines[4]), lines[4]
    assert any("p < 0.05 (paired bootstrap, 1000 samples)" in line for line in lines)
    tex = tables.latex(results)
    assert (
        r"no \textless{}b\textgreater{}\&\_speed" in tex
        and r"124.0 $\pm$ 1.2" in tex
        and r"$^\dagger$" in tex
    )
    body = tex[tex.index("\\midrule") : tex.index("\\bottomrule")]
    assert {line.count("&") - line.count(r"\&") for line in body.splitlines()[1:]} == {
        tex.splitlines()[3].count("&")
    }


def add_to_scores(run, **more):
    path = run / "scores.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def spoil(run):
    text = (run / "hypothesis.txt").read_text().splitlines()
    (run / "hypothesis.txt").write_text("".join(f"falsch {line}\n" for line in text))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("50%_a&b#c$", r"50\%\_a\&b\#c\$"),
        ("x^2~y", r"x\textasciicircum{}2\textasciitilde{}y"),
        ("a\\b{c}", r"a\textbackslash{}b\{c\}"),
        ("a<b>c|d", r"a\textless{}b\textgreater{}c\textbar{}d"),
        # a line's end takes these as its argument
        ("[1ex]", "{}[1ex]"),
        ("*", "{}*"),
        ("a\nb", "a?b"),
    ],
)
def test_names_mean_nothing_to_latex(tmp_path, name, expected):
    lines = tables.latex(results_of([make_run(tmp_path / name, 1)])).splitlines()
    row = lines[lines.index("\\midrule") + 1]
    assert row.startswith(f"{expected} & ") and row.endswith(r" \\")
    assert all(line.startswith("% ") for line in lines[lines.index(r"\end{tabular}") + 1 :])


def test_names_mean_nothing_to_markdown(tmp_path):
    table = tables.markdown(results_of([make_run(tmp_path / "a|b\\<i>", 1)]))
    assert table.splitlines()[2].startswith("| a\\|b\\\\\\<i> | ")


SPEEDS = {"one_wide": 130.0, "big": 110.0, "other": 99.0}


def test_both_figures_of_speed_are_from_the_comparison_beside_the_runs(runs, capsys):
    path = runs[0].parent / "latency_comparison.json"
    path.write_text(json.dumps(comparison_record(SPEEDS, (4, 1))))
    output = runs[0].parent / "report"
    assert main(["report", *map(str, runs[:2]), "--output", str(output), "--no-plots"]) == 0
    # the baseline comes later in the comparison, so its ratio is turned round
    table = capsys.readouterr().out
    turned = 130 / 110
    interval = f"[{turned / 1.1:.2f}, {turned / 0.9:.2f}]"
    assert f"| 130.0 ± 2.5 | {turned:.2f}x {interval} |" in table
    assert "| 110.0 ± 2.5 | 1.00x |" in table
    assert f"tokens/s: batch 1, beam 5, cpu ({CPU}), 1 thread, float32, mean and standard" in table
    assert "3 rounds over 20 batches" in table and "with 95% interval" in table
    assert "machines drift" not in table and "124.0" not in table
    rows = list(csv.DictReader(io.StringIO((output / "report.csv").read_text())))
    assert float(rows[1]["relative_speed"]) == pytest.approx(turned)
    assert float(rows[1]["relative_speed_low"]) == pytest.approx(turned / 1.1)
    assert float(rows[1]["relative_speed_high"]) == pytest.approx(turned / 0.9)
    assert rows[0]["relative_speed_low"] == ""
    for name in ("report.html", "report.tex"):
        assert f"{turned:.2f}x {interval}" in (output / name).read_text()


def test_a_comparison_that_lacks_a_run(runs, tmp_path, capsys):
    path = runs[0].parent / "latency_comparison.json"
    path.write_text(json.dumps(comparison_record(SPEEDS)))
    arguments = ["report", *map(str, runs), "--output", str(tmp_path / "report"), "--no-plots"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "latency_comparison.json isn't used: it has no model no <b>&_speed" in printed.err
    # all speeds are from the measurements of one model each
    assert "124.0 ± 1.2 | 1.24x |" in printed.out and "machines drift" in printed.out
    assert main([*arguments, "--latency-comparison", str(path)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"fairseq-ffn report: error: --latency-comparison {path}: it has no mod")


def test_a_comparison_elsewhere_is_not_that_of_these_runs(tmp_path, capsys):
    runs = [make_run(tmp_path / name / name, 1, speed=100.0) for name in ("a", "b")]
    record = json.dumps(comparison_record({"a": 110.0, "b": 120.0}))
    (tmp_path / "a" / "latency_comparison.json").write_text(record)
    arguments = ["report", *map(str, runs), "--output", str(tmp_path / "report"), "--no-plots"]
    assert main(arguments) == 0
    assert "100.0 ± 1.2 | 1.00x" in capsys.readouterr().out
    assert (
        main([*arguments, "--latency-comparison", str(tmp_path / "a/latency_comparison.json")]) == 0
    )
    assert "120.0 ± 2.5 | 1.09x" in capsys.readouterr().out


def test_real_text_at_the_smallest_batch_stands_for_a_comparison(runs):
    record = comparison_record({"big": 110.0, "one_wide": 150.0}, (2, 1), (None,))
    other = comparison_record({"big": 110.0, "one_wide": 300.0}, (1,), (9,))
    record["results"] = other["results"] + record["results"]
    results = collect([RunDirectory(run) for run in runs[:2]], comparison=record)
    assert results[1].tokens_per_second == 150.0
    record["results"] = other["results"]
    record["protocol"]["force_length"] = 7
    results = collect([RunDirectory(run) for run in runs[:2]], comparison=record)
    notes = " ".join(tables.notes(results))
    assert (
        f"batch 1, beam 5, cpu ({CPU}), 1 thread, float32, target forced to 7 tokens, "
        "9 random source tokens" in notes
    )


def test_without_the_baselines_speed_there_is_no_ratio(tmp_path):
    runs = [make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 1, speed=100.0)]
    lines = tables.markdown(results_of(runs)).splitlines()
    assert lines[0].startswith("| run | BLEU | chrF | tokens/s | parameters |")
    assert "| 100.0 ± 1.2 | 2M |" in lines[3]
    assert "speed:" not in " ".join(lines)


def change_record(run, **changes):
    """Change entries of a ``latency.json``; those in objects are merged."""
    path = run / "latency.json"
    record = json.loads(path.read_text())
    for key, value in changes.items():
        record[key] = {**record[key], **value}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"protocol": {"batch_size": None, "max_tokens": 900, "threads": 2}},
            f"batches of 900 tokens, beam 5, cpu ({CPU}), 2 threads",
        ),
        ({"machine": {"cpu": "Another CPU"}}, "batch 1, beam 5, cpu (Another CPU), 1 thread"),
        ({"protocol": {"max_len_b": 10}}, "1 thread, float32, max_len_b 10, mean"),
    ],
)
def test_speeds_that_can_not_be_compared_have_no_ratio(runs, changes, words):
    change_record(runs[1], **changes)
    make_run(runs[0].parent / "third", 3, speed=150.0)
    results = results_of([*runs[:2], runs[0].parent / "third"])
    notes = tables.notes(results)
    assert any("can't be compared" in note for note in notes)
    same = f"tokens/s of big, third: batch 1, beam 5, cpu ({CPU}), 1 thread, float32, mean"
    assert any(note.startswith(same) for note in notes)
    assert any(note.startswith("tokens/s of one_wide: ") and words in note for note in notes)
    assert [result.speed.ratio for result in results] == [1.0, None, 1.5]
    speed = next(one for one in tables.columns_of(results) if one.key == "tokens_per_second")
    assert speed.better == 0  # none is the best
    assert "bleu_speed" not in {figure.key for figure in plots.figures(results)}


def test_two_machines_alone_have_no_column_of_ratios(runs):
    change_record(runs[1], machine={"cpu": "Another CPU"})
    results = results_of(runs[:2])
    assert "relative_speed" not in {column.key for column in tables.columns_of(results)}
    assert not any("speed: ratio" in note for note in tables.notes(results))


def test_a_ratio_without_interval_is_one(runs):
    record = comparison_record({"big": 110.0, "one_wide": 121.0})
    record["results"][0]["ratios"][0].update(low=None, high=None)
    path = runs[0].parent / "latency_comparison.json"
    path.write_text(json.dumps(record))
    for order in (runs[:2], runs[1::-1]):
        comparison = find_comparison([RunDirectory(run) for run in order])
        results = collect([RunDirectory(run) for run in order], comparison=comparison)
        ratio = 1.1 if order[0] == runs[0] else 1 / 1.1
        text = tables.markdown(results)
        assert f"| {ratio:.2f}x |" in text and "of too few batches for an interval" in text
        assert "machines drift" not in text and "95%" not in text
    assert len(plots.figures(results, comparison)) > 1


def test_a_size_that_is_unknown_is_left_out(runs):
    for run, parameters in zip(runs, ({"total": 7_000_000, "body": None}, {"total": None})):
        change_record(run, parameters=parameters)
    results = results_of(runs)
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(results))))
    assert [row["parameters"] for row in rows] == ["7000000", "", ""]
    assert [row["body_parameters"] for row in rows] == ["", "1000000", ""]
    assert "body_percent" not in rows[0] and rows[0]["parameters_percent"] == "100.0"
    assert "bleu_parameters" not in {figure.key for figure in plots.figures(results)}


def test_a_comparison_of_several_batch_sizes_is_drawn_as_well(runs, tmp_path):
    pytest.importorskip("matplotlib")
    path = runs[0].parent / "latency_comparison.json"
    for sizes in ((1,), (1, 8)):
        path.write_text(json.dumps(comparison_record(SPEEDS, sizes)))
        output = tmp_path / f"report{len(sizes)}"
        assert main(["report", *map(str, runs[:2]), "--output", str(output)]) == 0
        assert (output / "plots" / "batch_sizes.svg").exists() == (len(sizes) > 1)


def test_scores_are_kept_until_the_texts_change(runs):
    before = results_of(runs)[1].scores["bleu"]["score"]
    add_to_scores(runs[1], ter={"score": 12.5, "signature": "x"})
    assert results_of(runs)[1].scores["ter"]["score"] == 12.5
    date = (runs[1] / "hypothesis.txt").stat().st_mtime
    spoil(runs[1])
    # a copied directory may give the new text any date
    os.utime(runs[1] / "hypothesis.txt", (date, date))
    again = results_of(runs)[1].scores
    assert again["bleu"]["score"] < before and again["ter"]["score"] != 12.5
    assert json.loads((runs[1] / "scores.json").read_text()) == again


def test_a_new_text_gets_the_metrics_of_the_old_one_anew(runs, monkeypatch):
    results_of(runs)
    add_to_scores(runs[0], spbleu={"score": 1.0, "signature": "nrefs:1|tok:flores200|x"})
    add_to_scores(runs[1], comet={"score": 1.0, "model": "mine.ckpt"})
    add_to_scores(runs[2], ter={"score": 1.0, "signature": "x"})
    for run in runs:
        spoil(run)
    asked = []

    def spbleu(hypotheses, references, tokenizer):
        asked.append((hypotheses[0].split()[0], tokenizer))
        return {"score": 7.0, "signature": f"tok:{tokenizer}|"}

    def comet(sources, hypotheses, references, model):
        asked.append((hypotheses[0].split()[0], model))
        return {"score": 8.0, "model": model}

    monkeypatch.setattr(score_runs_module, "spbleu", spbleu)
    monkeypatch.setattr(score_runs_module, "comet", comet)
    results = results_of(runs)
    assert asked == [("falsch", "flores200"), ("falsch", "mine.ckpt")] * 3
    for result in results:
        assert result.scores["comet"]["score"] == 8.0 and result.scores["spbleu"]["score"] == 7.0
        assert result.scores["ter"]["score"] != 1.0
    lines = tables.markdown(results)
    assert "COMET: mine.ckpt" in lines and "spBLEU: tok:flores200|" in lines


def test_a_metric_that_can_not_be_had_is_left_out_with_a_warning(runs, monkeypatch, caplog):
    results_of(runs)
    for run in runs[:2]:
        add_to_scores(run, comet={"score": 1.0, "model": "mine.ckpt"})
    spoil(runs[1])
    monkeypatch.setitem(sys.modules, "comet", None)
    results = results_of(runs)
    # the first text is as it was
    assert results[0].scores["comet"] == {"score": 1.0, "model": "mine.ckpt"}
    assert "comet" not in results[1].scores
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [f"{run}: comet is left out" in line for run, line in zip(runs[1:], warnings)] == [
        True
    ] * 2
    assert "COMET isn't installed" in warnings[0]


def test_scoring_again_keeps_what_other_calls_computed(runs, capsys):
    assert main(["score", "--ter", *map(str, runs[:2])]) == 0
    ter = json.loads((runs[1] / "scores.json").read_text())["ter"]
    add_to_scores(runs[1], comet={"score": 61.25, "model": "mine.ckpt"})
    capsys.readouterr()
    assert main(["score", *map(str, runs)]) == 0
    record = json.loads((runs[1] / "scores.json").read_text())
    assert record["ter"] == ter and record["comet"]["score"] == 61.25
    table = capsys.readouterr().out
    assert re.search(r"one_wide +\d+\.\d+ +\d+\.\d+ +\d+\.\d+ +61\.25", table)
    assert re.search(r"_speed +\d+\.\d+ +\d+\.\d+ +- +-", table)
    spoil(runs[1])
    assert main(["score", *map(str, runs)]) == 0
    assert set(json.loads((runs[1] / "scores.json").read_text())) & {"ter", "comet"} == set()


def test_another_baseline_is_tested_anew(runs):
    assert results_of(runs)[1].scores["significance"]["baseline"] == "big"
    turned = results_of(runs[::-1])
    assert "significance" not in turned[0].scores
    assert turned[1].scores["significance"]["baseline"] == "no <b>&_speed"


def test_the_baseline_of_a_report_has_no_dagger_from_another_report(runs):
    results_of(runs)
    alone = results_of(runs[2:])
    assert not alone[0].differs("bleu") and "†" not in tables.markdown(alone)
    # the file keeps it, and so a report of all has it at hand
    assert json.loads((runs[2] / "scores.json").read_text())["significance"]["baseline"] == "big"
    assert results_of(runs)[2].differs("bleu")


def test_another_kind_of_test_is_made_anew(runs):
    tests = []
    for test in ("paired-bs", "paired-ar", "paired-bs"):
        results = collect([RunDirectory(run) for run in runs[:2]], test)
        tests.append(results[1].scores["significance"]["test"])
    assert tests == ["paired bootstrap", "paired approximate randomization", "paired bootstrap"]


@pytest.mark.parametrize("samples", ["1", "999"])
def test_a_test_with_fewer_samples_is_made_anew(runs, samples):
    arguments = [str(run) for run in runs[:2]]
    assert main(["score", *arguments, "--baseline", arguments[0], "--samples", samples]) == 0
    assert results_of(runs[:2])[1].scores["significance"]["samples"] == 1000


def test_tests_of_one_report_have_equally_many_samples(runs):
    arguments = [str(run) for run in runs]
    for run, samples in ((1, "1500"), (2, "2000")):
        chosen = ["--baseline", arguments[0], "--samples", samples]
        assert main(["score", arguments[run], *chosen]) == 0
    results = results_of(runs)
    assert [one.scores["significance"]["samples"] for one in results[1:]] == [1000, 1000]


def test_other_sources_make_scores_anew(runs, monkeypatch):
    results_of(runs[:1])
    monkeypatch.setattr(
        score_runs_module,
        "comet",
        lambda sources, *others: {"score": float(len(sources[0])), "model": "mine.ckpt"},
    )
    add_to_scores(runs[0], comet={"score": 1.0, "model": "mine.ckpt"})
    assert results_of(runs[:1])[0].scores["comet"]["score"] == 1.0
    (runs[0] / "source.txt").write_text("abc\n" * 40)
    assert results_of(runs[:1])[0].scores["comet"]["score"] == 3.0
    (runs[0] / "source.txt").unlink()
    assert not are_scores_of(
        json.loads((runs[0] / "scores.json").read_text()), RunDirectory(runs[0]).texts()
    )


def test_a_test_with_more_samples_is_kept(runs):
    arguments = [str(run) for run in runs[:2]]
    assert main(["score", *arguments, "--baseline", arguments[0], "--samples", "1500"]) == 0
    assert results_of(runs[:2])[1].scores["significance"]["samples"] == 1500


def test_another_baseline_of_the_same_name_is_tested_anew(runs, tmp_path):
    other = make_run(tmp_path / "elsewhere" / "big", 12)
    for first in (runs[0], other, runs[0]):
        found = results_of([first, runs[1]])[1].scores["significance"]
        expected = collect([RunDirectory(first), RunDirectory(runs[1])])
        assert found == expected[1].scores["significance"]
        fresh = compare(
            ("big", expected[0].texts.hypotheses),
            [("x", expected[1].texts.hypotheses)],
            expected[0].texts.references,
        )[0]
        assert {key: found[key] for key in fresh} == fresh


def test_runs_of_other_references_are_not_compared_even_if_both_have_scores(runs):
    results_of(runs[:1])
    (runs[1] / "reference.txt").write_text("x\n" * 40)
    results_of(runs[1:2])
    with pytest.raises(UserError, match="its references differ"):
        results_of(runs[:2])


def test_two_runs_of_one_name_are_refused(tmp_path, runs):
    other = make_run(tmp_path / "elsewhere" / "big")
    with pytest.raises(UserError, match="two run directories are called big"):
        results_of([runs[0], other])


@pytest.mark.parametrize("log", [JSON_LOG, SIMPLE_LOG])
def test_curves_of_a_log(tmp_path, log):
    (tmp_path / "train.log").write_text(log)
    curves = read_curves(tmp_path / "train.log")
    assert curves.train == [(10, 9.5), (20, 6.5)]
    assert curves.valid == [(20, 6.5)]


def test_marked_words_are_those_that_the_reference_lacks():
    assert marked("das Haus ist rot", "das Haus war rot") == [
        ("das", True),
        ("Haus", True),
        ("ist", False),
        ("rot", True),
    ]


def test_samples_differ_and_keep_the_order_of_the_set(runs):
    samples = choose(results_of(runs), 5)
    numbers = [sample.number for sample in samples]
    assert len(numbers) == 5 and numbers == sorted(numbers)
    for sample in samples:
        texts = {" ".join(word for word, _ in words) for words in sample.hypotheses.values()}
        assert len(texts) > 1


class Page(HTMLParser):
    """What a page refers to, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.links, self.open, self.ids, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        self.tags.append((tag, names))
        if "id" in names:
            self.ids.append(names["id"])
        self.links += [names[key] for key in ("src", "href", "xlink:href") if key in names]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_command_writes_all_files_and_a_page_without_network(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps(comparison_record({"a": 100, "b": 120}, (1, 4), (9,))))
    output = tmp_path / "report"
    arguments = ["report", *map(str, runs), "--output", str(output), "--title", "A <i>title</i>"]
    assert main([*arguments, "--latency-sweep", str(sweep)]) == 0
    assert str(output / "report.html") in capsys.readouterr().out
    names = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    figures = {"bleu_speed", "bleu_parameters", "batch_sizes", "loss_train"}
    assert names == {
        *(f"report.{suffix}" for suffix in ("md", "csv", "tex", "html")),
        *(f"plots/{figure}.{suffix}" for figure in figures for suffix in ("png", "svg")),
    }
    text = (output / "report.html").read_text()
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    assert not parsed.open
    assert all(link.startswith("#") for link in parsed.links), parsed.links
    assert "<b>&_speed" not in text and "no &lt;b&gt;&amp;_speed" in text
    assert "<falsch>" not in text and "&lt;falsch&gt;" in text and "<i>title" not in text
    assert text.count("<svg") == 4 and "#010203" not in text
    # clip paths and markers are found in the page, each once
    used = parsed.links + re.findall(r"url\((#[^)]*)\)", text)
    assert len(used) > 20 and {link[1:] for link in used} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids)) > 100
    for tag, names in parsed.tags:
        # else it hides its caption
        assert ("role" in names and names["role"] == "img") == (tag == "svg")
    pictures = [names["aria-label"] for tag, names in parsed.tags if tag == "svg"]
    assert pictures[0] == "BLEU against tokens/s" and len(set(pictures)) == 4
    assert sum(tag == "main" for tag, _ in parsed.tags) == 1
    first = (output / "plots" / "bleu_speed.svg").read_bytes()
    assert main(arguments) == 0
    assert (output / "plots" / "bleu_speed.svg").read_bytes() == first


def test_best_values_of_the_page_are_bold(runs, tmp_path):
    make_run(tmp_path / "costly", 12, speed=200.0)
    change_record(tmp_path / "costly", parameters={"total": 9_000_000, "body": 900_000})
    results = results_of([runs[0], runs[2], tmp_path / "costly"])
    text = page("title", results, [], [])
    bold = {}
    columns = [column.key for column in tables.columns_of(results)]
    for row, name in zip(re.findall(r"<tr><th scope=\"row\">.*</tr>", text), "abc"):
        cells = re.findall(r"<td data-value=\"[^\"]*\"( class=\"best\")?>([^<]*)</td>", row)
        assert len(cells) == len(columns)
        bold[name] = {key for key, (best, _) in zip(columns, cells) if best}
    assert bold == {
        "a": {"bleu", "chrf", "parameters", "parameters_percent"},
        "b": set(),
        "c": {"tokens_per_second", "relative_speed", "body_parameters", "body_percent"},
    }


def test_differences_of_samples_are_marked_in_page_and_markdown(runs, tmp_path):
    words = ["das", "*Haus*", "<b>", "ist", "sehr", "rot", "und"]
    for run, text in zip(runs[:2], (words, [*words[:3], "war", "immer", *words[5:]])):
        (run / "reference.txt").write_text("".join(f"{' '.join(words)} {n}\n" for n in range(40)))
        (run / "hypothesis.txt").write_text("".join(f"{' '.join(text)} {n}\n" for n in range(40)))
    output = tmp_path / "report"
    arguments = ["report", *map(str, runs[:2]), "--output", str(output), "--no-plots"]
    assert main([*arguments, "--samples", "2"]) == 0
    text = (output / "report.html").read_text()
    assert text.count("<mark>") == 2
    assert "das *Haus* &lt;b&gt; <mark>war immer</mark> rot und 20" in text
    lines = (output / "report.md").read_text().splitlines()
    assert r"- one_wide: das \*Haus\* \<b> **war immer** rot und 20" in lines
    assert r"- big: das \*Haus\* \<b> ist sehr rot und 20" in lines
    assert r"- source: source \<20> \& more" in lines


def test_without_plots(runs, tmp_path, capsys):
    output = tmp_path / "report"
    assert main(["report", *map(str, runs), "--output", str(output), "--no-plots"]) == 0
    assert "<svg" not in (output / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: (runs[0] / "latency.json").write_text("{"), "latency.json"),
        (lambda runs: (runs[1] / "scores.json").write_text("{"), "scores.json: damaged JSON"),
        (lambda runs: (runs[1] / "hypothesis.txt").unlink(), "no hypothesis.txt"),
    ],
)
def test_broken_runs_are_one_line(runs, tmp_path, capsys, change, message):
    change(runs)
    output = tmp_path / "report"
    assert main(["report", *map(str, runs), "--output", str(output), "--no-plots"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fairseq-ffn report: error: ") and message in error
    assert not output.exists()
