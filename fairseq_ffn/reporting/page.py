"""The comparison as one HTML page: no network, sortable, light and dark, readable on a phone."""

from __future__ import annotations

import html
from typing import List, Sequence

from fairseq_ffn.reporting.plots import Figure, inline_svg
from fairseq_ffn.reporting.results import Result
from fairseq_ffn.reporting.samples import MARKED, Sample, runs_of_words
from fairseq_ffn.reporting.tables import cells, columns_of, notes

#: of all pages
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6570; --line: #d5dae0;
  --page: #ffffff; --card: #f5f7f9; --accent: #0a64a4; --mark: #ffe3b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a2abb5; --line: #3a424b;
  --page: #14181c; --card: #1d2329; --accent: #6db8ee; --mark: #5a4413; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p, figcaption { color: var(--soft); margin: .3rem 0; font-size: .9rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
.wide:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th { background: var(--card); white-space: normal; vertical-align: bottom; }
thead th:first-child { background: var(--card); }
thead button { all: unset; cursor: pointer; font-weight: 600; }
thead button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort] button { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.best { font-weight: 700; }
.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; padding: .8rem; background: var(--card); border-radius: .5rem; }
figure svg { width: 100%; height: auto; display: block; }
article { margin: 0 0 .8rem; padding: .8rem; background: var(--card); border-radius: .5rem; }
dl { display: grid; gap: .6rem 1.2rem; margin: .6rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
dt { color: var(--soft); font-size: .85rem; }
dt, dd { margin: 0; overflow-wrap: anywhere; }
.systems dt { color: var(--ink); font-weight: 600; }
mark { background: var(--mark); color: inherit; border-radius: .2rem; padding: 0 .1rem;
  text-decoration: underline 2px; text-underline-offset: .15em; }
"""

_SCRIPT = """
document.querySelectorAll("thead button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.parentNode, row = head.parentNode;
    var body = row.parentNode.parentNode.tBodies[0];
    var column = Array.prototype.indexOf.call(row.children, head);
    var down = head.getAttribute("aria-sort") !== "descending";
    Array.prototype.forEach.call(row.children, function (other) {
      other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    var rows = Array.prototype.slice.call(body.rows);
    function key(line) { var cell = line.children[column];
      return "value" in cell.dataset ? (cell.dataset.value === "" ? null : +cell.dataset.value)
        : cell.textContent; }
    rows.sort(function (a, b) { var x = key(a), y = key(b);
      if (x === null || y === null) { return (x === null) - (y === null); }
      var order = x < y ? -1 : x > y ? 1 : 0; return down ? -order : order; });
    rows.forEach(function (line) { body.appendChild(line); });
  });
});
"""


def page(
    title: str, results: Sequence[Result], figures: Sequence[Figure], samples: Sequence[Sample]
) -> str:
    """The whole page.

    Args:
        title: heading.
        results: the runs; the first is the baseline.
        figures: to show.
        samples: translations to show.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<main><h1>{html.escape(title)}</h1>",
        f"<p>{len(results)} runs; baseline: {html.escape(results[0].name)}. Click a heading to "
        "sort; the best value of a column is bold.</p>",
        *_table(results),
        *(f"<p>{html.escape(note)}</p>" for note in notes(results)),
    ]
    if figures:
        parts += ["<h2>Figures</h2>", '<div class="figures">']
        for figure in figures:
            parts.append(
                f"<figure><h3>{html.escape(figure.title)}</h3>{inline_svg(figure)}"
                f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
            )
        parts.append("</div>")
    if samples:
        parts += [
            "<h2>Translations</h2>",
            f"<p>Marked: {html.escape(MARKED)}.</p>",
        ]
        for sample in samples:
            parts += _sample(sample)
    parts += ["</main>", f"<script>{_SCRIPT}</script>", "</body></html>", ""]
    return "\n".join(parts)


def _table(results: Sequence[Result]) -> List[str]:
    columns = columns_of(results)
    # the keyboard scrolls what has the focus
    lines = ['<div class="wide" role="region" aria-label="Results" tabindex="0">']
    lines += ["<table><thead><tr>", '<th scope="col"><button>run</button></th>']
    lines += [
        f'<th scope="col"><button>{html.escape(column.title)}</button></th>' for column in columns
    ]
    lines.append("</tr></thead><tbody>")
    best = []
    for column in columns:
        values = [column.value(result) for result in results]
        known = [column.better * value for value in values if value is not None]
        best.append(max(known) if column.better and len(known) > 1 else None)
    for result, row in zip(results, cells(results, columns)):
        line = f'<tr><th scope="row">{html.escape(result.name)}</th>'
        for column, text, top in zip(columns, row, best):
            value = column.value(result)
            mark = ' class="best"' if value is not None and column.better * value == top else ""
            exact = "" if value is None else repr(float(value))
            line += f'<td data-value="{exact}"{mark}>{html.escape(text)}</td>'
        lines.append(line + "</tr>")
    lines.append("</tbody></table></div>")
    return lines


def _sample(sample: Sample) -> List[str]:
    """The texts, then the systems, each row side by side where there is room."""
    texts = {"source": sample.source} if sample.source else {}
    texts["reference"] = sample.reference
    lines = [f"<article><h3>Sentence {sample.number + 1}</h3>", "<dl>"]
    lines += [_entry(name, html.escape(text)) for name, text in texts.items()]
    lines += ["</dl>", '<dl class="systems">']
    for name, words in sample.hypotheses.items():
        text = " ".join(
            html.escape(part) if same else f"<mark>{html.escape(part)}</mark>"
            for part, same in runs_of_words(words)
        )
        lines.append(_entry(name, text))
    return [*lines, "</dl></article>"]


def _entry(name: str, text: str) -> str:
    return f"<div><dt>{html.escape(name)}</dt><dd>{text}</dd></div>"
