"""The maps of some sentences as one HTML page: choose model, sentence, stack, layer and scopes."""

from __future__ import annotations

import html
import json
from typing import Any, Dict, List

from fairseq_ffn.reporting.page import STYLE

_STYLE = """
.choice { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; margin: 1rem 0; }
.choice label { display: grid; font-size: .85rem; color: var(--soft); min-width: 0; }
select { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: .4rem; padding: .3rem .5rem; max-width: 100%; }
.maps { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.maps section { max-width: 100%; overflow-x: auto; }
.maps h2 { margin: .4rem 0; position: sticky; left: 0; }
table.map { width: auto; font-size: .72rem; }
table.map th, table.map td { border: 0; padding: 0; }
table.map td { width: 1.15rem; min-width: 1.15rem; height: 1.15rem; }
table.map td.first { border-left: 2px solid var(--ink); }
table.map th { font-weight: 400; background: var(--page); }
table.map thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  padding: .2rem 0; position: static; }
table.map tbody th { text-align: right; padding-right: .35rem; }
table.map tr.on th, table.map th.on { font-weight: 700; color: var(--accent); }
#cell { min-height: 1.5rem; font-variant-numeric: tabular-nums; color: var(--ink); }
#measures { width: auto; }
"""

#: points of cividis, dark to bright
_COLOURS = [
    *((0, 34, 78), (24, 54, 109), (67, 78, 108), (97, 101, 112), (124, 123, 120)),
    *((155, 148, 117), (188, 175, 106), (223, 203, 88), (254, 232, 56)),
]

_SCRIPT = """
var data = JSON.parse(document.getElementById("data").textContent), colours = %s;
var model = document.getElementById("model"), sentence = document.getElementById("sentence");
var stack = document.getElementById("stack"), layer = document.getElementById("layer");
function fill(select, names) {
  var kept = select.selectedIndex;
  select.textContent = "";
  names.forEach(function (name) { select.add(new Option(name)); });
  select.selectedIndex = kept >= 0 && kept < names.length ? kept : 0;
}
function colour(part) {
  var place = Math.max(0, Math.min(1, part)) * (colours.length - 1);
  var low = Math.min(colours.length - 2, Math.floor(place)), rest = place - low;
  return "rgb(" + colours[low].map(function (value, index) {
    return Math.round(value + rest * (colours[low + 1][index] - value)); }).join(",") + ")";
}
function head(tag, text) { var cell = document.createElement(tag); cell.textContent = text;
  return cell; }
function number(value) { return value === null ? "-" : value.toFixed(2); }
function draw() {
  var chosen = data.models[model.value], entry = chosen.maps[sentence.selectedIndex];
  var scopes = entry[stack.value][layer.selectedIndex], rows = entry.source, columns = rows;
  if (stack.value === "decoder") {
    rows = entry.target; columns = rows.concat(entry.source);
  }
  var space = document.getElementById("maps");
  space.textContent = "";
  Object.keys(scopes).forEach(function (name) {
    var section = document.createElement("section"), table = document.createElement("table");
    section.append(head("h2", name));
    table.className = "map";
    var top = table.createTHead().insertRow();
    top.append(head("th", ""));
    columns.forEach(function (symbol) { top.append(head("th", symbol)); });
    var body = table.createTBody();
    scopes[name].forEach(function (cells, row) {
      var line = body.insertRow(), largest = Math.max.apply(null, cells);
      line.append(head("th", rows[row]));
      cells.forEach(function (value, column) {
        var cell = line.insertCell();
        cell.style.background = colour(largest > 0 ? value / largest : 0);
        if (stack.value === "decoder" && column === rows.length) { cell.className = "first"; }
        cell.title = rows[row] + " \\u2190 " + columns[column] + ": " +
          (100 * value).toFixed(1) + "%%";
        cell.addEventListener("mouseenter", function () {
          document.getElementById("cell").textContent = name + ": " + cell.title; });
      });
    });
    section.append(table);
    space.append(section);
  });
  var measures = document.getElementById("measures").tBodies[0];
  measures.textContent = "";
  chosen.measures[stack.value][layer.selectedIndex].forEach(function (pair) {
    var line = measures.insertRow();
    line.append(head("th", pair[0]));
    pair[1].forEach(function (value) { line.insertCell().textContent = number(value); });
  });
}
function layers() {
  fill(layer, data.models[model.value].measures[stack.value].map(function (unused, index) {
    return String(index); }));
  draw();
}
function sentences() {
  fill(sentence, data.models[model.value].maps.map(function (entry) {
    return entry.sentence + ": " + entry.source.slice(0, 12).join(" "); }));
  layers();
}
fill(model, Object.keys(data.models));
fill(stack, ["encoder", "decoder"]);
model.addEventListener("change", sentences);
stack.addEventListener("change", layers);
sentence.addEventListener("change", draw);
layer.addEventListener("change", draw);
sentences();
"""


def map_page(record: Dict[str, Any]) -> str:
    """The whole page; no network, light and dark.

    Args:
        record: of ``analyze attention-maps``, without NaN.
    """
    models = {
        name: {
            "maps": model["maps"],
            "measures": {
                stack: [_measures(layer) for layer in layers]
                for stack, layers in model["layers"].items()
            },
        }
        for name, model in record["attention_maps"].items()
    }
    data = json.dumps({"models": models}, ensure_ascii=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # a symbol such as </script> would end the script
    title = "Attention maps through the FFN"
    choices = "".join(
        f'<label for="{name}">{name}<select id="{name}"></select></label>'
        for name in ("model", "sentence", "stack", "layer")
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        "<p>Row: an output position of the layer. Column: a token that its vector came from; in "
        "the decoder targets, then, after the line, the source. Colour: share of the row (dark 0, "
        "bright the row's largest). One map a scope, in the order of the layer: ATTN-W attention "
        "weights; ATTN-N norms of the attention's vectors; ATB the attention block; then FF, RES "
        "(residual) and LN (norm) added. Scopes of pre-norm and parallel layers and of the decoder "
        "are our definition.</p>",
        f'<div class="choice">{choices}</div>',
        '<p id="cell" aria-live="polite"></p>',
        '<div class="maps" id="maps"></div>',
        f"<h2>This layer over all {record['sentences']} sentences</h2>",
        '<div class="wide"><table id="measures"><thead><tr><th>measure</th><th>mean</th>'
        "<th>without the diagonal</th></tr></thead><tbody></tbody></table></div>",
        f'<script type="application/json" id="data">{data}</script>',
        f"<script>{_SCRIPT % json.dumps(_COLOURS)}</script>",
        "</body></html>",
        "",
    ]
    return "\n".join(parts)


def _measures(layer: Dict[str, Any]) -> List[Any]:
    rows: List[Any] = [
        [
            f"1 - rho over {component}",
            [change["all"]["mean"], change["without_diagonal"]["mean"]],
        ]
        for component, change in layer["change"].items()
    ]
    rows += [
        [f"mixing ratio at {scope}", [value["mean"]]]
        for scope, value in layer["mixing_ratio"].items()
    ]
    return rows
