"""Figures of a report: who is drawn, how, and under which name."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from fairseq_ffn.reporting import plots
from fairseq_ffn.reporting.plots import pareto_front, smooth
from fairseq_ffn.reporting.results import collect
from fairseq_ffn.reporting.run_directory import RunDirectory
from reporting.runs import CPU, JSON_LOG, comparison_record, latency_record, make_run


class Label:
    """A text of a legend."""

    def set(self, text, **style):
        self.text = text


class Axes:
    """Keeps the lines that are drawn, with their names in the legend."""

    def __init__(self):
        self.drawn, self.labels, self.ticks = [], [], None

    def errorbar(self, sizes, ratios, yerr, **style):
        self.drawn.append((sizes, ratios, yerr, style))
        return self.drawn[-1]

    def set_xticks(self, ticks, labels):
        self.ticks = list(zip(ticks, labels))

    def legend(self, drawn, labels, **style):
        assert drawn == self.drawn
        self.labels = [Label() for _ in labels]
        return self

    def get_texts(self):
        return self.labels

    @property
    def lines(self):
        return [(label.text, *drawn) for label, drawn in zip(self.labels, self.drawn)]

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class DrawnAxes:
    """Keeps what is in the legend, with its colour and marker."""

    def __init__(self):
        self.styles, self.labels = [], []

    def draw(self, *values, color=None, marker=None, **style):
        return [(color, marker)]

    def scatter(self, *values, **style):
        return self.draw(**style)[0]

    def errorbar(self, *values, **style):
        return self.draw(**style)[0]

    def plot(self, *values, **style):
        return self.draw(**style)

    def legend(self, drawn, labels, **style):
        self.styles = drawn
        self.labels = [Label() for _ in labels]
        return self

    def get_texts(self):
        return self.labels

    @property
    def names(self):
        return [label.text for label in self.labels]

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def sweep_figure(record):
    figures = plots.figures([], record)
    assert [figure.key for figure in figures] == ["batch_sizes"]
    axes = Axes()
    figures[0].draw(axes)
    return figures[0], axes


def test_a_sweep_has_one_line_per_model_and_source_length():
    record = comparison_record({"a": 100.0, "b": 200.0, "c": 50.0}, (4, 1), (10, 40))
    figure, axes = sweep_figure(record)
    assert axes.ticks == [(1, "1"), (4, "4")]
    assert "Colours are models, dashes source lengths." in figure.caption
    assert [(label, sizes) for label, sizes, *_ in axes.lines] == [
        (f"{name}, {length} source tokens", [1, 4]) for name in "bc" for length in (10, 40)
    ]
    ratios = {label: ratios for label, _, ratios, *_ in axes.lines}
    assert ratios["b, 10 source tokens"] == pytest.approx([1.1, 1.025])
    assert ratios["c, 40 source tokens"] == pytest.approx([1 - 0.5 / 40, 1 - 0.5 / 160])
    _, _, ratio, (below, above), _ = axes.lines[0]
    assert below == pytest.approx([0.1 * one for one in ratio])
    assert above == pytest.approx(below)
    styles = [style for *_, style in axes.lines]
    assert len({(one["color"], one["linestyle"]) for one in styles}) == 4
    assert len({one["color"] for one in styles}) == 2
    assert len({one["linestyle"] for one in styles}) == len({one["marker"] for one in styles}) == 2


def test_a_sweep_over_real_text_names_only_the_models():
    figure, axes = sweep_figure(comparison_record({"a": 100.0, "b": 200.0}, (1, 2)))
    assert [label for label, *_ in axes.lines] == ["b"]
    assert "dashes" not in figure.caption


def test_a_model_has_the_colour_and_marker_of_its_run_in_every_figure(tmp_path):
    names = ("big", "one_wide", "other")
    runs = [make_run(tmp_path / name, errors) for name, errors in zip(names, (1, 2, 9))]
    (runs[2] / "train.log").write_text(JSON_LOG)
    for run in runs[1:]:  # the first run isn't measured, the second has no log
        (run / "latency.json").write_text(json.dumps(latency_record(90.0)))
    sweep = comparison_record({"big": 1.0, "other": 2.0, "one_wide": 3.0}, (1, 2))
    (runs[0] / "train.log").write_text("")
    seen = {}
    for figure in plots.figures(collect([RunDirectory(run) for run in runs]), sweep):
        axes = DrawnAxes()
        figure.draw(axes)
        seen[figure.key] = dict(zip(axes.names, axes.styles))
    assert {key: list(styles) for key, styles in seen.items()} == {
        "bleu_speed": ["one_wide", "other"],
        "bleu_parameters": ["one_wide", "other"],
        "batch_sizes": ["other", "one_wide"],
        "loss_train": ["other"],
    }
    for styles in seen.values():
        for name, style in styles.items():
            place = names.index(name)
            assert style == (plots.COLOURS[place], plots.MARKERS[place])


def test_the_machine_of_a_sweep_is_named():
    figure, _ = sweep_figure(comparison_record({"a": 100.0, "b": 200.0}, (1, 2)))
    assert f"Measured with beam 5, cpu ({CPU}), 1 thread, float32." in figure.caption


def test_a_sweep_of_one_model_is_no_figure():
    assert plots.figures([], comparison_record({"a": 100.0}, (1, 2))) == []


def test_pareto_front():
    points = [(1.0, 20.0), (2.0, 25.0), (3.0, 24.0), (4.0, 30.0)]
    assert pareto_front(points, more_is_better=False) == [0, 1, 3]
    assert pareto_front(points, more_is_better=True) == [3]
    assert pareto_front([(5.0, 1.0), (5.0, 2.0)], more_is_better=True) == [1]


def test_smoothing_is_the_mean_of_the_last_values():
    assert smooth([4.0, 2.0, 0.0], 2) == [4.0, 3.0, 1.0]


NAMES = ("_a", "$\\foo$", "b_$x^2$_", "#010203", 'id="url(#p)"')


def test_any_name_is_in_the_legend_as_it_is(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [make_run(tmp_path / name, number, speed=90.0) for number, name in enumerate(NAMES)]
    for run in runs:
        (run / "train.log").write_text(JSON_LOG)
    sweep = comparison_record({"$\\foo$": 100.0, **{name: 90.0 for name in NAMES}}, (1, 2))
    figures = plots.figures(collect([RunDirectory(run) for run in runs]), sweep)
    assert [figure.key for figure in figures] == [
        *("bleu_speed", "bleu_parameters", "batch_sizes", "loss_train")
    ]
    for figure in figures:
        plots.save(figure, tmp_path)
        for text in (plots.inline_svg(figure), (tmp_path / f"{figure.key}.svg").read_text()):
            texts = {"".join(element.itertext()).strip() for element in svg(text)}
            # the first model of a comparison is what the others are compared with
            expected = {name for name in NAMES if figure.key != "batch_sizes" or name[0] != "$"}
            assert texts >= expected, figure.key
            assert not any("\\mathdefault" in one for one in texts)
        if figure.key == "batch_sizes":
            assert "tokens/s relative to $\\foo$" in texts


def svg(text):
    """Its texts."""
    return ElementTree.fromstring(text[text.index("<svg") :]).iter(f"{{{plots._SVG}}}text")


def test_a_figure_in_a_page_is_labelled_and_its_ids_are_its_own(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [make_run(tmp_path / name, 1, speed=90.0) for name in "ab"]
    figures = plots.figures(collect([RunDirectory(run) for run in runs]))
    assert len(figures) == 2
    seen = set()
    for figure in figures:
        text = plots.inline_svg(figure)
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img" and root.get("aria-label") == figure.title
        assert root.get("width") is None and root.get("height") is None and root.get("viewBox")
        ids = {element.get("id") for element in root.iter()} - {None}
        assert not ids & seen
        seen |= ids
        links = re.findall(r'href="#([^"]*)"', text) + re.findall(r"url\(#([^)]*)\)", text)
        assert links and set(links) <= ids
        assert "currentColor" in text and plots._INK not in text
