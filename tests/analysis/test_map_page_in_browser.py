"""The page of attention maps in a real browser: choosing draws, nothing asks for the network."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from analysis.cases import model_of, sentences
from analysis.test_maps import sentence_of
from fairseq_ffn.analysis.map_study import Sentence, Settings, study
from fairseq_ffn.cli.analysis_input import without_nan
from fairseq_ffn.reporting.map_page import map_page

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium; apt-get install chromium")

#: chooses, and writes what the page then shows into its body
PROBE = """<script>
function choose(name, index) { var select = document.getElementById(name);
  select.selectedIndex = index; select.dispatchEvent(new Event("change")); }
%s
var body = document.body, tables = document.querySelectorAll("#maps table");
body.setAttribute("data-scopes", Array.prototype.map.call(
  document.querySelectorAll("#maps h2"), function (head) { return head.textContent; }).join(" "));
body.setAttribute("data-size", tables[0].tBodies[0].rows.length + "x" +
  (tables[0].tBodies[0].rows[0].cells.length - 1));
body.setAttribute("data-first", tables[0].tBodies[0].rows[0].cells[0].textContent);
body.setAttribute("data-measures", document.getElementById("measures").tBodies[0].rows.length);
body.setAttribute("data-overflow",
  document.documentElement.scrollWidth - document.documentElement.clientWidth);
body.setAttribute("data-requests", performance.getEntriesByType("resource").length);
</script></body>"""

HOSTILE = "</script><img/src=x>"


@pytest.fixture(scope="module")
def page() -> str:
    given = [sentence_of(sentences((n,), (m,), seed=n)) for n, m in ((6, 5), (4, 7))]
    first = given[0]
    given[0] = Sentence(0, first.batch, [HOSTILE, *first.source[1:]], first.target)
    models = {
        name: study(model_of(name), given, 2, Settings())
        for name in ("baseline post-norm", "one_wide pre-norm")
    }
    return map_page(without_nan({"attention_maps": models, "sentences": 2}))


def shown(page: str, tmp_path, script: str, width: int = 1200) -> dict:
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", PROBE % script), encoding="utf-8")
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"),
            *("--virtual-time-budget=2000", "--dump-dom", f"file://{file}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    body = re.search(r"<body[^>]*>", done.stdout).group(0)
    return dict(re.findall(r'data-(\w+)="([^"]*)"', body))


def test_first_map_is_drawn_and_hostile_symbols_are_text(page, tmp_path):
    found = shown(page, tmp_path, "")
    assert found["scopes"] == "ATTN-W ATTN-N ATTNRES-N ATB ATBFF ATBFFRES ATBFFRESLN"
    assert found["size"] == "6x6" and found["requests"] == "0"
    assert found["first"].replace("&lt;", "<").replace("&gt;", ">") == HOSTILE
    assert found["measures"] == "12"


def test_choosing_draws_anew_and_the_page_fits_a_phone(page, tmp_path):
    script = 'choose("model", 1); choose("sentence", 1); choose("stack", 1); choose("layer", 2);'
    found = shown(page, tmp_path, script, width=500)
    assert found["scopes"] == "ATTN-W ATTN-N SATB ATB"
    assert found["size"] == "7x11" and found["first"] == "▁t0"
    assert int(found["overflow"]) <= 0 and found["requests"] == "0"
